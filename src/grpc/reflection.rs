//! Server reflection, v1 and v1alpha: what services there are and the descriptors of everything they use, so that
//! grpcurl and its like can list, describe and call them without a proto file.
//!
//! Everything is in memory: conversations run on the completion queue.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::{AbortHandle, Abortable, Either, select};
use futures_util::{SinkExt, StreamExt};
use grpcio::{DuplexSink, GrpcSlice, RequestStream, RpcStatus, RpcStatusCode, WriteFlags};
use protobuf::descriptor::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use protobuf::reflect::FileDescriptor;
use protobuf::{Message, MessageField};

use crate::pb;
use crate::pb::grpc_reflection_v1::server_reflection_request::Message_request as Question;
use crate::pb::grpc_reflection_v1::server_reflection_response::Message_response as Answer;
use crate::pb::grpc_reflection_v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};

/// The files whose services are served; what they import is served with them.
fn roots() -> [&'static FileDescriptor; 10] {
    [
        pb::grpc_health::file_descriptor(),
        pb::grpc_reflection_v1::file_descriptor(),
        pb::grpc_reflection_v1alpha::file_descriptor(),
        pb::thanos_exemplars::file_descriptor(),
        pb::thanos_info::file_descriptor(),
        pb::thanos_metadata::file_descriptor(),
        pb::thanos_rules::file_descriptor(),
        pb::thanos_status::file_descriptor(),
        pb::thanos_store::file_descriptor(),
        pb::thanos_targets::file_descriptor(),
    ]
}

/// Serves reflection and ends its conversations when the daemon stops.
#[derive(Clone, Default)]
pub struct Reflection(Arc<Mutex<Conversations>>);

#[derive(Default)]
struct Conversations {
    /// The first of each pair lives as long as the conversation, the second ends it.
    open: Vec<(Weak<()>, AbortHandle)>,
    ended: bool,
}

impl Reflection {
    /// The future of one conversation: answers each question until the client has no more.
    pub fn converse(
        &self,
        mut questions: RequestStream<ServerReflectionRequest>,
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
                        // A panic would take the completion queue with it.
                        let Ok(message) = catch_unwind(AssertUnwindSafe(|| respond(question))) else {
                            break RpcStatus::with_message(RpcStatusCode::INTERNAL, "internal error".into());
                        };
                        if sink.send((GrpcSlice::from(message), WriteFlags::default())).await.is_err() {
                            return;
                        }
                    }
                    Either::Left((None, _)) => break RpcStatus::ok(),
                    Either::Left((Some(Err(err)), _)) => {
                        break RpcStatus::with_message(RpcStatusCode::INVALID_ARGUMENT, err.to_string());
                    }
                    Either::Right(_) => {
                        break RpcStatus::with_message(
                            RpcStatusCode::UNAVAILABLE,
                            "the sidecar is shutting down".into(),
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
        conversations.open.push((Arc::downgrade(alive), handle));
    }

    /// Ends every conversation: one that is left open would hold up the shutdown for the whole grace period.
    pub fn end(&self) {
        let mut conversations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conversations.ended = true;
        for (_, handle) in conversations.open.drain(..) {
            handle.abort();
        }
    }
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
        Some(Question::FileByFilename(name)) => with_dependencies(|file| file.name() == name, "file"),
        Some(Question::FileContainingSymbol(symbol)) => {
            with_dependencies(|file| declares(file.proto(), symbol), "symbol")
        }
        Some(Question::AllExtensionNumbersOfType(name)) => {
            // There are no extensions here, but the type must be one.
            match pool().iter().any(|file| file.message_by_full_name(&format!(".{name}")).is_some()) {
                true => Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    ..Default::default()
                }),
                false => not_found("type"),
            }
        }
        Some(Question::FileContainingExtension(_)) => not_found("extension"),
        None => error(RpcStatusCode::INVALID_ARGUMENT, "the request asks for nothing".into()),
    }
}

fn services() -> ListServiceResponse {
    let mut names: Vec<String> = roots()
        .iter()
        .map(|file| file.proto())
        .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())))
        .collect();
    names.sort();
    let service = names.into_iter().map(|name| ServiceResponse { name, ..Default::default() }).collect();
    ListServiceResponse { service, ..Default::default() }
}

/// Every file there is, each once.
fn pool() -> Vec<FileDescriptor> {
    let mut found = Vec::new();
    for root in roots() {
        collect(root, &mut found);
    }
    found
}

/// Adds a file and, after it, what it imports.
fn collect(file: &FileDescriptor, found: &mut Vec<FileDescriptor>) {
    if found.iter().all(|other| other.name() != file.name()) {
        found.push(file.clone());
        for dependency in file.deps() {
            collect(dependency, found);
        }
    }
}

/// The file that is wanted and all it imports, for clients that do not ask for imports by themselves.
fn with_dependencies(is_wanted: impl Fn(&FileDescriptor) -> bool, what: &str) -> Answer {
    let Some(wanted) = pool().into_iter().find(is_wanted) else { return not_found(what) };
    let mut files = Vec::new();
    collect(&wanted, &mut files);
    let file_descriptor_proto = files.iter().map(|file| encode(file.proto())).collect();
    Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto, ..Default::default() })
}

/// Whether a file declares the thing of this full name: a message, field, enum, enum value, service or method.
fn declares(file: &FileDescriptorProto, symbol: &str) -> bool {
    let Some(name) = inside(symbol, file.package()) else { return false };
    in_messages(&file.message_type, name)
        || in_enums(&file.enum_type, name)
        || file.service.iter().any(|service| {
            service.name() == name
                || inside(name, service.name())
                    .is_some_and(|name| service.method.iter().any(|method| method.name() == name))
        })
}

fn in_messages(messages: &[DescriptorProto], name: &str) -> bool {
    messages.iter().any(|message| {
        message.name() == name
            || inside(name, message.name()).is_some_and(|name| {
                message.field.iter().any(|field| field.name() == name)
                    || message.oneof_decl.iter().any(|oneof| oneof.name() == name)
                    || in_enums(&message.enum_type, name)
                    || in_messages(&message.nested_type, name)
            })
    })
}

/// Values of an enum stand beside it, not in it.
fn in_enums(enums: &[EnumDescriptorProto], name: &str) -> bool {
    enums.iter().any(|one| one.name() == name || one.value.iter().any(|value| value.name() == name))
}

/// What of `name` follows `scope` and a dot.
fn inside<'a>(name: &'a str, scope: &str) -> Option<&'a str> {
    name.strip_prefix(scope)?.strip_prefix('.')
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
    use std::collections::BTreeSet;

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
        let mut names = BTreeSet::new();
        for file in pool() {
            let file = file.proto();
            let enums = file.enum_type.iter().flat_map(|one| one.value.iter().map(|v| v.name()).chain([one.name()]));
            let rest = file.message_type.iter().map(|m| m.name()).chain(file.service.iter().map(|s| s.name()));
            for name in enums.chain(rest) {
                assert!(names.insert(format!("{}.{name}", file.package())), "{} is declared twice", name);
            }
        }
        assert!(names.len() > 50, "{names:?}");
    }
}
