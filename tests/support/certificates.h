// Certificates for the TLS tests, made by the openssl command at run time: none is stored, none
// expires.
#pragma once

#include <stdexcept>
#include <string>

#include "tests/support/server_process.h"

namespace gcorn::e2e {

class Certificates {
public:
    /// A CA (ca.pem), and signed by it: server for localhost and 127.0.0.1, other for other.test,
    /// and client, with the extensions that RFC 5280 asks for and Python 3.13's clients insist on.
    /// Each is NAME.pem and NAME.key. locked.key is server.key with a passphrase.
    Certificates() {
        issue("ca", "");
        issue("server", "DNS:localhost,IP:127.0.0.1");
        issue("other", "DNS:other.test");
        issue("client", "DNS:client");
        sh("openssl ec -in server.key -aes128 -passout pass:secret -out locked.key");
    }
    [[nodiscard]] std::string operator/(const std::string& name) const { return directory_ / name; }

    /// Makes NAME.key and NAME.pem (or replaces them), signed by ca; an empty `names` makes a CA.
    void issue(const std::string& name, const std::string& names) const {
        const std::string make =
            "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
            " -nodes -subj /CN=" +
            name + " -keyout " + name + ".key ";
        if (names.empty()) {
            sh(make + "-x509 -days 2 -addext keyUsage=critical,keyCertSign,cRLSign -out " + name +
               ".pem");
            return;
        }
        sh(make + "-out " + name + ".csr && printf 'subjectAltName=" + names +
           "\\nsubjectKeyIdentifier=hash\\nauthorityKeyIdentifier=keyid\\n' >" + name +
           ".ext && openssl x509 -req -in " + name +
           ".csr -CA ca.pem -CAkey ca.key -days 2 -extfile " + name +
           ".ext -set_serial 0x$(openssl rand -hex 8) -out " + name + ".pem");
    }

private:
    void sh(const std::string& command) const {
        const Finished made = run({"/bin/sh", "-c", command}, {}, directory_.path());
        if (made.code != 0) throw std::runtime_error(command + ": " + made.err);
    }
    TempDir directory_;
};

}  // namespace gcorn::e2e
