//! Text as HTML, and a template that is filled in one pass, so that what is filled in is never taken for the template's. Pure.

/// Text that means itself between tags and within quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The template with each `{{name}}` replaced. What has no value becomes nothing. Values are HTML already.
pub(super) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, (name, behind))) =
        rest.split_once("{{").and_then(|(before, after)| Some((before, after.split_once("}}")?)))
    {
        out.push_str(before);
        out.extend(values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()));
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out() {
        assert_eq!(escape("<a href=\"x\" b='y'>&amp;"), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;");
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let values = [("a", "{{b}}".to_owned()), ("b", "B".to_owned())];
        assert_eq!(fill("1 {{a}} 2 {{b}} 3 {{c}} 4", &values), "1 {{b}} 2 B 3  4");
        assert_eq!(fill("no end {{a", &values), "no end {{a");
    }
}
