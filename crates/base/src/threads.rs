//! Named threads. Every thread of Pillion is started here, except scoped threads, which say so where they are started.

use std::any::Any;
use std::thread::JoinHandle;

use crate::error::{Context, Result};

/// Spawns a named thread; with `stack_bytes` a small one. The parts of the daemon are spawned by its supervisor.
#[allow(clippy::disallowed_methods)]
pub fn spawn_thread<T: Send + 'static>(
    name: &str,
    stack_bytes: Option<usize>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let mut builder = std::thread::Builder::new().name(name.to_owned());
    if let Some(bytes) = stack_bytes {
        builder = builder.stack_size(bytes);
    }
    builder.spawn(body).context(|| format!("start thread {name}"))
}

/// The text of a panic's payload.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
