//! The pages of the HTTP server: `/metrics`, `/-/healthy`, `/-/ready` and `/-/reload`; `/` and `/api/v1/status`, which
//! `status` makes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use pillion_http::server::Response;
use pillion_http::server::request::Head;

use crate::metrics::{Format, Metrics, takes_gzip};
use crate::probes::Probes;
use crate::status::Status;

/// Reads everything again that can be read again; what failed, as one text.
pub(crate) type ReloadAll = Box<dyn Fn() -> Result<(), String> + Send>;

/// The pages of the daemon. Without `reload` nobody may ask for one.
pub fn routes(
    metrics: Metrics,
    probes: Probes,
    status: Status,
    reload: Option<Box<dyn Fn() -> Result<(), String> + Send>>,
) -> impl Fn(&Head) -> Response {
    let probe = |ok: bool| if ok { Response::text("OK") } else { Response::error(503, "NOT OK") };
    move |head| match head.path.as_str() {
        "/metrics" => page_of_metrics(&metrics, head),
        "/-/healthy" => probe(probes.is_healthy()),
        "/-/ready" => probe(probes.is_ready()),
        "/-/reload" => reloaded(reload.as_ref(), &head.method),
        "/" => status.page(),
        "/api/v1/status" => status.json(),
        _ => Response::error(404, "404 page not found"),
    }
}

fn page_of_metrics(metrics: &Metrics, head: &Head) -> Response {
    let format = Format::accepted(&head.accept);
    let page = metrics.page(format);
    if !takes_gzip(&head.accept_encoding) {
        return Response::ok(format.content_type(), page);
    }
    let mut gzip = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    match gzip.write_all(&page).and_then(|()| gzip.finish()) {
        Ok(small) => {
            let mut response = Response::ok(format.content_type(), small);
            response.headers.push(("Content-Encoding", "gzip"));
            response
        }
        Err(_) => Response::ok(format.content_type(), page),
    }
}

/// `Source:` Prometheus `web/web.go`, which answers in the same words.
fn reloaded(reload: Option<&ReloadAll>, method: &str) -> Response {
    let Some(reload) = reload else {
        return Response::error(403, "Lifecycle API is not enabled. Start pillion with --web.enable-lifecycle.");
    };
    if !matches!(method, "POST" | "PUT") {
        let mut response = Response::error(405, "Only POST or PUT requests allowed");
        response.headers.push(("Allow", "POST, PUT"));
        return response;
    }
    match reload() {
        Ok(()) => Response::text(""),
        Err(text) => Response::error(500, &format!("failed to reload config: {text}")),
    }
}
