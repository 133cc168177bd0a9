//! Message buffers that gRPC reads from without a copy and that come back when it is done with them.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use grpcio::GrpcSlice;

use crate::limits;
use pillion_read::store::EncodedMessage;

/// Buffers that wait for their next message.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer with room for `bytes`. Small ones are made to measure, large ones come from the pool where it has one.
pub(crate) fn take(bytes: usize) -> Vec<u8> {
    if bytes <= limits::SMALL_MESSAGE_BYTES {
        return Vec::with_capacity(bytes);
    }
    let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut buffer = pooled.unwrap_or_default();
    buffer.reserve(bytes);
    buffer
}

/// Gives the memory of buffers that wait back to the allocator.
pub(crate) fn release() {
    let buffers = std::mem::take(&mut *POOL.lock().unwrap_or_else(PoisonError::into_inner));
    drop(buffers);
}

/// Hands a message over to gRPC without copying it.
pub(crate) fn into_slice(message: EncodedMessage) -> GrpcSlice {
    let EncodedMessage { buffer, start } = message;
    // A vector that is exactly full is taken over as it is.
    if start == 0 && buffer.len() == buffer.capacity() {
        return GrpcSlice::from(buffer);
    }
    if start >= buffer.len() {
        return GrpcSlice::default();
    }
    let len = buffer.len() - start;
    let mut owner = Box::new(buffer);
    let bytes = owner.as_mut_ptr().wrapping_add(start);
    let mut slice = GrpcSlice::default();
    // SAFETY: `bytes` points at `len` initialized bytes of the boxed vector, which nothing touches until the core calls
    // `give_back`, exactly once, when the last reference to the slice is gone. The slice that is overwritten is the empty
    // inlined one, which owns nothing.
    #[allow(unsafe_code)]
    unsafe {
        *slice.as_mut_ptr() = grpcio_sys::grpc_slice_new_with_user_data(
            bytes.cast::<c_void>(),
            len,
            Some(give_back),
            Box::into_raw(owner).cast::<c_void>(),
        );
    }
    slice
}

/// Called by the core, on any of its threads.
#[allow(unsafe_code)]
unsafe extern "C" fn give_back(owner: *mut c_void) {
    // SAFETY: `owner` is the box that `into_slice` let go of.
    let mut buffer = *unsafe { Box::from_raw(owner.cast::<Vec<u8>>()) };
    if buffer.capacity() > 2 * limits::MESSAGE_BYTES_TARGET {
        return;
    }
    buffer.clear();
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.len() < limits::POOLED_BUFFERS_MAX {
        pool.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(slice: &GrpcSlice) -> Vec<u8> {
        slice.as_slice().to_vec()
    }

    #[test]
    fn messages_are_the_same_bytes_wherever_they_begin() {
        let whole = vec![1_u8, 2, 3];
        assert_eq!(bytes_of(&into_slice(EncodedMessage::whole(whole))), [1, 2, 3]);
        let mut roomy = Vec::with_capacity(100);
        roomy.extend([9, 9, 1, 2, 3]);
        let slice = into_slice(EncodedMessage { buffer: roomy, start: 2 });
        let copy = slice.clone();
        drop(slice);
        assert_eq!(bytes_of(&copy), [1, 2, 3]);
        assert_eq!(bytes_of(&into_slice(EncodedMessage::default())), [0_u8; 0]);
    }

    #[test]
    fn large_buffers_come_back() {
        let mut buffer = take(limits::MESSAGE_BYTES_TARGET);
        buffer.extend([7; 100]);
        let at = buffer.as_ptr() as usize;
        drop(into_slice(EncodedMessage { buffer, start: 1 }));
        // Other tests may use the pool at the same time; what matters is that the buffer can be taken again.
        let taken: Vec<_> = (0..limits::POOLED_BUFFERS_MAX).map(|_| take(limits::MESSAGE_BYTES_TARGET)).collect();
        assert!(taken.iter().any(|buffer| buffer.as_ptr() as usize == at));
    }
}
