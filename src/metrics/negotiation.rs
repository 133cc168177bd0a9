//! In which format a page of metrics is wanted, and whether compressed. Pure.

/// A format of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0, which has exemplars.
    OpenMetrics,
}

impl Format {
    /// Its `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that `Accept` prefers; text where it leaves the choice.
    pub(crate) fn accepted(accept: &str) -> Self {
        let weight_of = |wanted: fn(&str, &str) -> bool| {
            let weights = items(accept).filter(|(kind, rest, _)| wanted(kind, rest)).map(|(.., weight)| weight);
            weights.fold(0.0, f64::max)
        };
        let open_metrics = weight_of(|kind, rest| {
            let version = parameter(rest, "version").unwrap_or("1.0.0");
            kind.eq_ignore_ascii_case("application/openmetrics-text") && matches!(version, "1.0.0" | "0.0.1")
        });
        let text = weight_of(|kind, rest| {
            let version = parameter(rest, "version").unwrap_or("0.0.4");
            kind.eq_ignore_ascii_case("text/plain") && version == "0.0.4"
        });
        if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
    }
}

/// Whether `Accept-Encoding` takes gzip.
pub(crate) fn takes_gzip(accept_encoding: &str) -> bool {
    let named = items(accept_encoding).find(|(name, ..)| name.eq_ignore_ascii_case("gzip"));
    named.is_some_and(|(.., weight)| weight > 0.0)
}

/// Each item of a list with its parameters and its weight, which is 1 unless it is said.
fn items(list: &str) -> impl Iterator<Item = (&str, &str, f64)> {
    list.split(',').map(|item| {
        let (name, rest) = item.split_once(';').unwrap_or((item, ""));
        let weight = parameter(rest, "q").map_or(1.0, |text| text.parse().unwrap_or(0.0));
        (name.trim(), rest, weight)
    })
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    let pairs = parameters.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim(), value.trim().trim_matches('"'))).find(|(key, _)| *key == name).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_they_are_asked_for() {
        let check = |accept: &str, expected: Format| assert_eq!(Format::accepted(accept), expected, "{accept}");
        check("", Format::Text);
        check("*/*", Format::Text);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text);
        check("application/openmetrics-text", Format::OpenMetrics);
        // Prometheus 2.42, and 3.5 with its protobuf left out.
        let scrape = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(scrape, Format::OpenMetrics);
        let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        check(newer, Format::OpenMetrics);
        check("text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5", Format::Text);
        check("application/openmetrics-text;version=2.0.0", Format::Text);
        check("application/openmetrics-text;q=0", Format::Text);
        check("application/openmetrics-text;q=x;;=", Format::Text);
    }

    #[test]
    fn gzip_where_it_is_taken() {
        for (value, expected) in
            [("gzip", true), ("deflate, GZIP;q=0.5", true), ("", false), ("identity", false), ("gzip;q=0", false)]
        {
            assert_eq!(takes_gzip(value), expected, "{value}");
        }
    }
}
