//! The services beside the StoreAPI: each asks Prometheus one JSON endpoint and hands on what it says. What differs
//! between them is in one pure module each; what they share is here.

pub mod exemplars;
pub mod metadata;
pub mod rules;
pub mod status;
pub mod targets;

mod shape;

use protobuf::Message;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::prom::answers::Answer;
use crate::prom::client::Client;
use crate::state::PromState;
use crate::store::series::Outlet;

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

    /// The parameters for Prometheus.
    fn params(request: &Self::Request) -> Params;

    /// The answer to a request for which Prometheus need not be asked.
    ///
    /// `Errors:` `BadRequest` for a request that cannot be understood.
    fn unasked(_request: &Self::Request, _external: &Labels) -> Result<Option<Self::Response>> {
        Ok(None)
    }

    /// What the client is told, with the external labels set on top of Prometheus's.
    fn responses(request: &Self::Request, data: Self::Data, external: &Labels) -> impl Iterator<Item = Self::Response>;

    /// A message that carries a warning.
    fn warning(text: String) -> Self::Response;

    /// Says what failed, where Thanos does.
    fn explain(err: Error) -> Error {
        err
    }
}

/// Answers one call: the messages, then Prometheus's warnings. Nothing is sent unless the whole answer was understood.
pub fn answer<A: Api>(request: &A::Request, state: &PromState, client: &Client, outlet: &dyn Outlet) -> Result<()> {
    let send =
        |message: A::Response| outlet.send(message.write_to_bytes().expect("writing a message to memory cannot fail"));
    if let Some(message) = A::unasked(request, &state.external_labels)? {
        return send(message);
    }
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let Answer { data, warnings } = call.json::<A::Data>(A::PATH, &A::params(request)).map_err(A::explain)?;
    A::responses(request, data, &state.external_labels).try_for_each(send)?;
    warnings.into_iter().map(A::warning).try_for_each(send)
}
