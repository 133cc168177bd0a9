//! The pages of the HTTP server: `/metrics`, `/-/healthy` and `/-/ready`; `/` and `/api/v1/status`, which `status` makes.

use pillion_http::server::Response;

use crate::metrics::Metrics;
use crate::probes::Probes;
use crate::status::Status;

/// `text/plain` of the exposition format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The pages of the daemon.
pub fn routes(metrics: Metrics, probes: Probes, status: Status) -> impl Fn(&str, &str) -> Response {
    let probe = |ok: bool| if ok { Response::text("OK") } else { Response::error(503, "NOT OK") };
    move |_method, path| match path {
        "/metrics" => Response::ok(METRICS_TYPE, metrics.render()),
        "/-/healthy" => probe(probes.is_healthy()),
        "/-/ready" => probe(probes.is_ready()),
        "/" => status.page(),
        "/api/v1/status" => status.json(),
        _ => Response::error(404, "404 page not found"),
    }
}
