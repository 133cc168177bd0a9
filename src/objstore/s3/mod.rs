//! The S3 bucket: signed requests over blocking HTTP, large files in parts straight from the file.

pub mod config;
pub mod credentials;
pub mod endpoint;
