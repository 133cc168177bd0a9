//! The services beside the StoreAPI: each asks one JSON endpoint of Prometheus and passes the answer on. What differs
//! between them is in one pure module each; what they share is here.

mod exemplars;
mod metadata;
mod rules;
mod shape;
mod status;
mod targets;

pub use exemplars::Exemplars;
pub use metadata::Metadata;
pub use rules::Rules;
pub use status::Status;
pub use targets::Targets;

use protobuf::Message;
use serde::de::DeserializeOwned;

use crate::prom::{Answer, PromClient};
use crate::spans::Timed;
use crate::store::{EncodedMessage, Outlet};
use pillion_base::error::{Error, Result};
use pillion_base::labels::Labels;
use pillion_base::state::PromState;

/// Query parameters of a request to Prometheus.
pub type Params = Vec<(&'static str, String)>;

/// One method: how its request becomes a question to Prometheus, and how the answer becomes messages.
pub trait Api {
    /// What the client sends.
    type Request: Message;
    /// The `data` of Prometheus's answer; its default stands for `null` and for an answer without a body.
    type Data: DeserializeOwned + Default;
    /// What the client gets, any number of times.
    type Response: Message;

    /// The endpoint of Prometheus.
    const PATH: &'static str;
    /// Whether the call fails while Prometheus cannot be reached, without asking it.
    const NEEDS_READY: bool = false;
    /// What a trace calls the sending of the answer, if it does. `Source:` Thanos.
    const SENDING: Option<&'static str> = None;

    /// The parameters for Prometheus.
    fn params(request: &Self::Request) -> Params;

    /// The answer to a request that needs no answer from Prometheus.
    ///
    /// `Errors:` `BadRequest` for a request that cannot be understood.
    fn answer_unasked(_request: &Self::Request, _external: &Labels) -> Result<Option<Self::Response>> {
        Ok(None)
    }

    /// The messages for the client, with the external labels set on top of Prometheus's.
    fn responses(request: &Self::Request, data: Self::Data, external: &Labels) -> impl Iterator<Item = Self::Response>;

    /// A message that carries a warning.
    fn warning(text: String) -> Self::Response;

    /// Adds to an error what Thanos adds, if it does.
    fn explain(err: Error) -> Error {
        err
    }
}

/// Answers one call: the messages, then Prometheus's warnings. Nothing is sent unless the whole answer was understood.
pub fn answer<A: Api>(request: &A::Request, state: &PromState, client: &PromClient, outlet: &dyn Outlet) -> Result<()> {
    let send = |message: A::Response| {
        let bytes = message.write_to_bytes().expect("writing a message to memory cannot fail");
        outlet.send(EncodedMessage::whole(bytes))
    };
    if let Some(message) = A::answer_unasked(request, &state.external_labels)? {
        return send(message);
    }
    let call = client.call().traced(outlet.spans());
    outlet.on_gone(Box::new(call.cutter()));
    let Answer { data, warnings } = call.json::<A::Data>(A::PATH, &A::params(request)).map_err(A::explain)?;
    let span = A::SENDING.map_or_else(Timed::default, |name| Timed::work(outlet.spans(), name));
    let sent = A::responses(request, data, &state.external_labels).try_for_each(send);
    span.end(sent.and_then(|()| warnings.into_iter().map(A::warning).try_for_each(send)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prom::answers;
    use pillion_base::error::Kind;

    /// What `A` makes of a body; every error must be one that says what is wrong with it.
    fn read<A: Api>(body: &[u8]) -> usize
    where
        A::Request: Default,
    {
        match answers::json::<A::Data>(body) {
            Ok(answer) => A::responses(&A::Request::default(), answer.data, &Labels::new([("region", "eu")]))
                .map(|response| response.write_to_bytes().unwrap().len())
                .sum(),
            Err(err) => {
                assert!(matches!(err.kind(), Kind::Corrupt | Kind::Permanent), "{err}");
                0
            }
        }
    }

    /// Reads the body with every byte replaced by bytes that matter in JSON, and cut off everywhere.
    fn mangle<A: Api>(data: &str)
    where
        A::Request: Default,
    {
        let body = format!("{{\"status\":\"success\",\"data\":{data}}}").into_bytes();
        assert!(read::<A>(&body) > 0, "the body is understood as it is");
        for idx in 0..body.len() {
            read::<A>(&body[..idx]);
            let mut mangled = body.clone();
            for byte in *b"\"[]{},:-0e\\n\xff\x00" {
                mangled[idx] = byte;
                read::<A>(&mangled);
            }
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read::<A>(format!("{{\"status\":\"success\",\"other\":{deep}").as_bytes()), 0);
    }

    #[test]
    fn mangled_answers_are_errors() {
        mangle::<Rules>(
            r#"{"groups":[{"name":"g","interval":60,"limit":3,"lastEvaluation":"2024-02-29T12:00:00.5+02:00","rules":[
            {"type":"alerting","state":"firing","duration":3,"labels":{"a":"b"},"alerts":[{"activeAt":"2024-02-29T12:00:00Z",
            "state":"firing","partialResponseStrategy":"WARN"}]}]}]}"#,
        );
        mangle::<Targets>(
            r#"{"activeTargets":[{"labels":{"job":"j"},"lastScrape":"1970-01-01T00:00:01.5Z","health":"up"}],
            "droppedTargets":[{"discoveredLabels":{"a":"b"}}]}"#,
        );
        mangle::<Metadata>(r#"{"up":[{"type":"gauge","help":"h","unit":"u"}]}"#);
        mangle::<Exemplars>(
            r#"[{"seriesLabels":{"a":"b"},"exemplars":[{"labels":{},"value":"6.5","timestamp":1600096945.479}]}]"#,
        );
        mangle::<Status>(
            r#"{"headStats":{"numSeries":5,"minTime":-9223372036854775808},"seriesCountByMetricName":[{"name":"a","value":1}]}"#,
        );
    }
}
