//! The pure modules of Pillion that read bytes from outside, by their source files: they know nothing of gRPC, whose C++
//! core would have to be built a second time, with the fuzzer's flags. Their own tests run in Pillion.

#![allow(dead_code)]

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/labels.rs"]
pub mod labels;
#[path = "../../src/limits.rs"]
pub mod limits;

#[path = "."]
pub mod prom {
    #[path = "../../src/prom/frames.rs"]
    pub mod frames;
}

#[path = "."]
pub mod store {
    #[path = "../../src/store/samples.rs"]
    pub mod samples;
    #[path = "../../src/store/shard.rs"]
    pub mod shard;
    #[path = "../../src/store/transcode.rs"]
    pub mod transcode;
    #[path = "../../src/store/wire.rs"]
    pub mod wire;
    #[path = "../../src/store/xor.rs"]
    pub mod xor;
}

#[path = "."]
pub mod client {
    #[path = "../../src/client/xor.rs"]
    pub mod xor;
}

#[path = "."]
pub mod grpc {
    #[path = "../../src/grpc/bucket.rs"]
    pub mod bucket;
    #[path = "../../src/grpc/guard.rs"]
    pub mod guard;
    #[path = "../../src/grpc/walker.rs"]
    pub mod walker;
}

#[path = "."]
pub mod admin {
    #[path = "../../src/admin/request.rs"]
    pub mod request;
}

/// The one generated message that the modules above take apart.
pub mod pb {
    /// Stands for the code that Pillion's build.rs generates.
    pub mod thanos_store {
        /// The fields of `thanos.ShardInfo`.
        #[derive(Debug, Clone, Default)]
        pub struct ShardInfo {
            pub shard_index: i64,
            pub total_shards: i64,
            pub by: bool,
            pub labels: Vec<String>,
        }
    }
}

/// Takes bytes off the front of an input; zeros once it is empty.
pub struct Dice<'a>(pub &'a [u8]);

impl<'a> Dice<'a> {
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }
}
