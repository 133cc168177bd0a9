//! Server reflection, v1 and v1alpha: what services there are and the descriptors of everything they use, so that
//! grpcurl and its like can list, describe and call them without a proto file.
//!
//! All of it is tables that build.rs makes from proto/, so nothing is parsed or kept at run time, and conversations run on
//! the completion queue.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::{AbortHandle, Abortable, Either, select};
use futures_util::{SinkExt, StreamExt};
use grpcio::{DuplexSink, GrpcSlice, RequestStream, RpcStatus, RpcStatusCode, WriteFlags};
use protobuf::{Message, MessageField};

use crate::grpc::request::Bytes;
use crate::limits;
use pillion_proto::grpc_reflection_v1::server_reflection_request::Message_request as Question;
use pillion_proto::grpc_reflection_v1::server_reflection_response::Message_response as Answer;
use pillion_proto::grpc_reflection_v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};

include!(concat!(env!("OUT_DIR"), "/reflection.rs"));

/// A file that declares a served service or is imported by one that does.
struct File {
    name: &'static str,
    /// Indices into [`FILES`].
    imports: &'static [usize],
    /// An encoded `google.protobuf.FileDescriptorProto`.
    bytes: &'static [u8],
}

/// A message, field, enum, value, service or method by its full name. [`SYMBOLS`] are sorted by it.
struct Symbol {
    name: &'static str,
    /// Where it is declared: an index into [`FILES`].
    file_idx: usize,
    is_message: bool,
}

/// Serves reflection and ends its conversations when the daemon stops.
#[derive(Clone, Default)]
pub(crate) struct Reflection(Arc<Mutex<Conversations>>);

#[derive(Default)]
struct Conversations {
    /// The first of each pair lives as long as the conversation, the second ends it.
    open: Vec<(Weak<()>, AbortHandle)>,
    ended: bool,
}

impl Reflection {
    /// The future of one conversation: answers each question until the client has no more.
    pub(crate) fn converse(
        &self,
        mut questions: RequestStream<Bytes>,
        mut sink: DuplexSink<GrpcSlice>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (handle, registration) = AbortHandle::new_pair();
        let alive = Arc::new(());
        self.register(&alive, handle);
        async move {
            let _alive = alive;
            let mut ended = pin!(Abortable::new(pending::<()>(), registration));
            let status = loop {
                match select(questions.next(), &mut ended).await {
                    Either::Left((Some(Ok(question)), _)) => {
                        let message = match respond_to(&question) {
                            Ok(message) => message,
                            Err(status) => break status,
                        };
                        let sent = sink.send((GrpcSlice::from(message), WriteFlags::default()));
                        match select(sent, &mut ended).await {
                            Either::Left((Ok(()), _)) => {}
                            // To let go of the call cancels it.
                            Either::Left((Err(_), _)) | Either::Right(_) => return,
                        }
                    }
                    Either::Left((None, _)) => break RpcStatus::ok(),
                    Either::Left((Some(Err(err)), _)) => {
                        break RpcStatus::with_message(RpcStatusCode::INVALID_ARGUMENT, err.to_string());
                    }
                    Either::Right(_) => {
                        break RpcStatus::with_message(
                            RpcStatusCode::UNAVAILABLE,
                            "the sidecar ends the conversation".into(),
                        );
                    }
                }
            };
            // Nobody is left to tell when these fail.
            if status.code() == RpcStatusCode::OK {
                let _ = sink.close().await;
            } else {
                let _ = sink.fail(status).await;
            }
        }
    }

    fn register(&self, alive: &Arc<()>, handle: AbortHandle) {
        let mut conversations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if conversations.ended {
            handle.abort();
            return;
        }
        conversations.open.retain(|(alive, _)| alive.strong_count() > 0);
        // They are outside the pool of calls, so they have a bound of their own.
        while conversations.open.len() >= limits::CONVERSATIONS_MAX {
            conversations.open.remove(0).1.abort();
        }
        conversations.open.push((Arc::downgrade(alive), handle));
    }

    /// Ends every conversation: one that is left open would hold up the shutdown for the whole grace period.
    pub(crate) fn end(&self) {
        let mut conversations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conversations.ended = true;
        for (_, handle) in conversations.open.drain(..) {
            handle.abort();
        }
    }
}

/// The encoded response to a question that is still encoded itself.
fn respond_to(question: &[u8]) -> Result<Vec<u8>, RpcStatus> {
    // It is decoded where nothing may take long, and comes back with its answer.
    if question.len() > limits::SMALL_REQUEST_BYTES_MAX {
        let text = "a question about a name is not that long".to_owned();
        return Err(RpcStatus::with_message(RpcStatusCode::INVALID_ARGUMENT, text));
    }
    let question = ServerReflectionRequest::parse_from_bytes(question)
        .map_err(|err| RpcStatus::with_message(RpcStatusCode::INVALID_ARGUMENT, err.to_string()))?;
    // A panic would take the completion queue with it.
    catch_unwind(AssertUnwindSafe(|| respond(question)))
        .map_err(|_| RpcStatus::with_message(RpcStatusCode::INTERNAL, "internal error".into()))
}

/// The encoded response to one question.
fn respond(request: ServerReflectionRequest) -> Vec<u8> {
    let response = ServerReflectionResponse {
        valid_host: request.host.clone(),
        message_response: Some(answer(request.message_request.as_ref())),
        original_request: MessageField::some(request),
        ..Default::default()
    };
    encode(&response)
}

fn answer(question: Option<&Question>) -> Answer {
    match question {
        Some(Question::ListServices(_)) => Answer::ListServicesResponse(services()),
        Some(Question::FileByFilename(name)) => match FILES.iter().position(|file| file.name == name) {
            Some(idx) => with_imports(idx),
            None => not_found("file"),
        },
        Some(Question::FileContainingSymbol(name)) => match find(name) {
            Some(symbol) => with_imports(symbol.file_idx),
            None => not_found("symbol"),
        },
        Some(Question::AllExtensionNumbersOfType(name)) => match find(name).filter(|symbol| symbol.is_message) {
            // There are no extensions here.
            Some(symbol) => Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: symbol.name.into(),
                ..Default::default()
            }),
            None => not_found("type"),
        },
        Some(Question::FileContainingExtension(_)) => not_found("extension"),
        // The generated enum is open; a question of a newer protocol is none that can be answered.
        Some(_) | None => error(RpcStatusCode::INVALID_ARGUMENT, "the request asks for nothing".into()),
    }
}

fn services() -> ListServiceResponse {
    let service = SERVICES.iter().map(|name| ServiceResponse { name: (*name).into(), ..Default::default() }).collect();
    ListServiceResponse { service, ..Default::default() }
}

fn find(name: &str) -> Option<&'static Symbol> {
    SYMBOLS.binary_search_by(|symbol| symbol.name.cmp(name)).ok().map(|idx| &SYMBOLS[idx])
}

/// A file and all it imports, for clients that do not ask for imports by themselves.
fn with_imports(file_idx: usize) -> Answer {
    let mut wanted = vec![file_idx];
    let mut done = 0;
    while let Some(idx) = wanted.get(done) {
        let imports = FILES[*idx].imports;
        wanted.extend(imports.iter().filter(|idx| !wanted.contains(idx)).copied().collect::<Vec<_>>());
        done += 1;
    }
    let file_descriptor_proto = wanted.into_iter().map(|idx| FILES[idx].bytes.to_vec()).collect();
    Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto, ..Default::default() })
}

fn not_found(what: &str) -> Answer {
    error(RpcStatusCode::NOT_FOUND, format!("{what} not found"))
}

fn error(code: RpcStatusCode, error_message: String) -> Answer {
    Answer::ErrorResponse(ErrorResponse { error_code: code.into(), error_message, ..Default::default() })
}

fn encode(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("writing a message to memory cannot fail")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::descriptor::FileDescriptorProto;

    /// The names of the files that an answer carries.
    fn files(question: Question) -> Vec<String> {
        let message = respond(ServerReflectionRequest {
            host: "h".into(),
            message_request: Some(question.clone()),
            ..Default::default()
        });
        let response = ServerReflectionResponse::parse_from_bytes(&message).unwrap();
        assert_eq!(response.valid_host, "h");
        assert_eq!(response.original_request.message_request, Some(question));
        match response.message_response.unwrap() {
            Answer::FileDescriptorResponse(files) => files
                .file_descriptor_proto
                .iter()
                .map(|bytes| FileDescriptorProto::parse_from_bytes(bytes).unwrap().name().to_owned())
                .collect(),
            Answer::ErrorResponse(error) => {
                assert_eq!(error.error_code, 5);
                vec![error.error_message]
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_come_with_what_they_import() {
        let by_name = |name: &str| files(Question::FileByFilename(name.into()));
        assert_eq!(by_name("thanos_types.proto"), ["thanos_types.proto"]);
        assert_eq!(by_name("google/protobuf/any.proto"), ["google/protobuf/any.proto"]);
        let store = by_name("thanos_store.proto");
        assert_eq!(store, ["thanos_store.proto", "google/protobuf/any.proto", "thanos_types.proto"]);
        assert_eq!(by_name("prometheus_remote.proto"), ["file not found"]);
    }

    #[test]
    fn symbols() {
        let check = |symbol: &str, expected: &str| {
            assert_eq!(files(Question::FileContainingSymbol(symbol.into()))[0], expected, "{symbol}");
        };
        check("thanos.Store", "thanos_store.proto");
        check("thanos.Store.Series", "thanos_store.proto");
        check("thanos.SeriesRequest.min_time", "thanos_store.proto");
        check("thanos.SeriesResponse.result", "thanos_store.proto");
        check("thanos.RAW", "thanos_store.proto");
        check("thanos.LabelMatcher.Type", "thanos_types.proto");
        check("thanos.LabelMatcher.NRE", "thanos_types.proto");
        check("thanos.info.Info", "thanos_info.proto");
        check("thanos.HEALTH_UNKNOWN", "thanos_targets.proto");
        check("google.protobuf.Timestamp", "google/protobuf/timestamp.proto");
        check("grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo", "grpc_reflection_v1alpha.proto");
        for unknown in ["thanos.Nothing", "thanos.Store.Nothing", "thanos", "thanos.", "", "Store", "thanos.info.Store"]
        {
            check(unknown, "symbol not found");
        }
    }

    #[test]
    fn extensions_there_are_none() {
        let of_type = |name: &str| answer(Some(&Question::AllExtensionNumbersOfType(name.into())));
        assert!(
            matches!(of_type("thanos.SeriesRequest"), Answer::AllExtensionNumbersResponse(r) if r.extension_number.is_empty())
        );
        assert!(matches!(of_type("thanos.Store"), Answer::ErrorResponse(err) if err.error_code == 5));
        let extension = answer(Some(&Question::FileContainingExtension(Default::default())));
        assert!(matches!(extension, Answer::ErrorResponse(err) if err.error_code == 5));
        assert!(matches!(answer(None), Answer::ErrorResponse(err) if err.error_code == 3));
    }

    /// A client puts all files into one pool, where a name may be declared once.
    #[test]
    fn no_name_is_declared_twice() {
        assert!(SYMBOLS.is_sorted_by(|a, b| a.name < b.name), "a name is there twice");
        assert!(SYMBOLS.len() > 100 && SYMBOLS.iter().all(|symbol| symbol.file_idx < FILES.len()));
    }
}
