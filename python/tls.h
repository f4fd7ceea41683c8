// TLS with the interpreter's own ssl module, as a ByteTransform: SSLObject over two MemoryBIOs.
//
// No OpenSSL is linked and nothing blocks: the loop feeds what arrived and sends what comes out.
// Ciphers, versions and resumption are those of ssl.create_default_context, unless the settings or
// the hook ssl_context(config, default_ssl_context_factory) say otherwise. The arbiter makes the
// context, at start and on HUP, and workers inherit it: so the key may be readable by root alone, a
// replacement worker never reads a half-written file, and a session begun with one worker is
// resumed by another (they share the ticket keys). Deviation: gunicorn reads the files again for
// each connection (sync, gthread) or worker (gevent), as the worker's user. Terminating TLS here
// costs the GIL; docs/deploying.md says when a proxy in front pays off.
#pragma once

#include "python/pyref.h"

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "config.h"
#include "log/log.h"
#include "net/transform.h"

namespace gcorn {

/// One ssl.SSLContext and what all its connections share.
struct TlsContext;

/// The context that `cfg` describes; null if neither certfile nor keyfile is set. Takes the GIL.
/// Error: one sentence that names the setting and the file (missing, unreadable, no PEM, key
/// mismatch, passphrase, unknown cipher), or what the ssl_context hook raised; its code is 1, the
/// exit code.
[[nodiscard]] Result<std::shared_ptr<TlsContext>> make_tls_context(const Config& cfg);

/// The maker of transforms for that context's connections; empty for null. Its calls take the GIL.
[[nodiscard]] TransformMaker tls_transform_maker(std::shared_ptr<TlsContext> context);

/// The contexts of the configuration in force and of the one before, to which an abandoned reload
/// returns. Arbiter; workers inherit it.
class TlsContexts {
public:
    /// Makes the context of `cfg` the one in force. Error: nothing changed. If a reload is undone
    /// and the old files are no longer good, what was read from them before stays in use, and an
    /// error is logged.
    Status use(const Config& cfg, Logger& log);
    /// Empty while TLS is off.
    [[nodiscard]] TransformMaker transform_maker() const {
        return tls_transform_maker(in_force_.context);
    }

private:
    struct Entry {
        std::vector<std::string> settings;  ///< what the context was made from
        const void* hook = nullptr;         ///< only compared
        std::shared_ptr<TlsContext> context;
        bool operator==(const Entry& other) const {
            return settings == other.settings && hook == other.hook;
        }
    };
    Entry in_force_, before_;
};

}  // namespace gcorn
