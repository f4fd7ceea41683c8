// TLS with the interpreter's own ssl module, as a ByteTransform: SSLObject over two MemoryBIOs.
//
// No OpenSSL is linked and nothing blocks: the loop feeds what arrived and sends what comes out. Ciphers,
// versions and resumption are those of ssl.create_default_context, unless the settings or the hook
// ssl_context(config, default_ssl_context_factory) say otherwise. Certificates are read once per context:
// in the arbiter to check them (at start and on HUP, before anything else changes), in a worker when it
// boots. Terminating TLS here costs the GIL; docs/deploying.md says when a proxy in front pays.
#pragma once

#include "python/pyref.h"

#include <memory>

#include "base/result.h"
#include "config.h"
#include "net/transform.h"

namespace gcorn {

/// The TLS context that `cfg` describes; null if neither certfile nor keyfile is set. Takes the GIL.
/// Error: one sentence that names the setting and the file (missing, unreadable, key mismatch, encrypted
/// key, unknown cipher), or what the ssl_context hook raised.
[[nodiscard]] Result<std::unique_ptr<TransformFactory>> make_tls_factory(const Config& cfg);

}  // namespace gcorn
