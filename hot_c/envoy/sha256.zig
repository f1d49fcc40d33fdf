//! SHA-256 by the standard library of the pinned compiler: the module may not link OpenSSL (Envoy's BoringSSL is
//! hidden, and the host's libcrypto need not exist).
const std = @import("std");

/// out (32 bytes) = SHA-256 of the len bytes at data; data may be of any alignment. Thread-safe.
export fn knhk_sha256(data: [*]const u8, len: usize, out: *[32]u8) void {
    std.crypto.hash.sha2.Sha256.hash(data[0..len], out, .{});
}
