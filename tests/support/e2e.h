// What every end-to-end test file needs: the client, the server, and a fixture that runs each of
// its tests over all worker classes.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "tests/support/http_client.h"
#include "tests/support/server_process.h"

namespace gcorn::e2e {

inline bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

/// How often `part` occurs in `text`, overlapping occurrences included.
inline size_t count(const std::string& text, std::string_view part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++found;
    return found;
}

/// Skips the test against gunicorn, where gcorn is meant to be better.
#define SKIP_ON_GUNICORN(reason) \
    if (::gcorn::e2e::is_gunicorn()) GTEST_SKIP() << "gunicorn differs: " << (reason)

/// Skips the test against any gunicorn older than the version that behaves as gcorn does.
#define SKIP_ON_GUNICORN_BEFORE(version, reason)                                     \
    if (::gcorn::e2e::is_gunicorn() && ::gcorn::e2e::gunicorn_version() < (version)) \
    GTEST_SKIP() << "gunicorn before " << (version) << " differs: " << (reason)

/// A test that runs once for each worker class.
class PerEngine : public ::testing::TestWithParam<Engine> {
protected:
    /// Options for a server with this test's worker class.
    static ServerOptions with(const std::vector<std::string>& more = {}) {
        return {.args = GetParam() + more};
    }
};

#define FOR_EVERY_ENGINE(fixture)                                                            \
    INSTANTIATE_TEST_SUITE_P(Engines, fixture, ::testing::ValuesIn(::gcorn::e2e::engines()), \
                             [](const auto& engine) { return engine.param.name; })

}  // namespace gcorn::e2e
