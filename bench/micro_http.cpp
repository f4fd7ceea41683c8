// Micro-benchmark of the two pure HTTP rooms: parse a head, decode a chunked body, render a
// response.
//
// Prints nanoseconds for each, the best of many short rounds (noise only ever adds). No network, no
// Python. Compare figures of one machine and one build only; build with -O2.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "bench/heads.h"
#include "http_parse.h"
#include "http_response.h"

namespace {

using namespace gcorn;

void require(bool condition) {
    if (!condition) std::abort();
}

template <typename Work>
void measure(const char* what, size_t turns, Work work) {
    double best = 1e18;
    for (int round = 0; round < 300; ++round) {
        const auto start = std::chrono::steady_clock::now();
        for (size_t i = 0; i < turns; ++i)
            work();
        const std::chrono::duration<double, std::nano> spent =
            std::chrono::steady_clock::now() - start;
        best = std::min(best, spent.count() / static_cast<double>(turns));
    }
    std::printf("%-46s %9.1f ns\n", what, best);
}

void bench_parse(const char* what, const std::string& bytes, bool is_trusted) {
    const HttpPolicy policy;
    const PeerFacts peer{is_trusted, false};
    RequestHead head;
    HttpError error;
    measure(what, 500, [&] {
        HeadParser parser;
        size_t used = 0;
        require(parser.parse(bytes, policy, peer, head, used, error) == Parse::Done);
    });
}

void bench_drip(const char* what, const std::string& bytes) {
    const HttpPolicy policy;
    RequestHead head;
    HttpError error;
    measure(what, 10, [&] {
        HeadParser parser;
        size_t used = 0;
        Parse outcome = Parse::NeedMore;
        for (size_t n = 1; n <= bytes.size(); ++n) {
            outcome = parser.parse({bytes.data(), n}, policy, {}, head, used, error);
        }
        require(outcome == Parse::Done);
    });
}

void bench_body() {
    std::string wire;
    for (int i = 0; i < 100; ++i)
        wire += "400\r\n" + std::string(1024, 'x') + "\r\n";
    wire += "0\r\n\r\n";
    const HttpPolicy policy;
    measure("decode 100 chunks of 1 KiB", 50, [&] {
        BodyReader reader;
        reader.begin(Framing::Chunked, 0, policy);
        HttpError error;
        Parse outcome = Parse::NeedMore;
        for (size_t at = 0; outcome == Parse::NeedMore;) {
            size_t used = 0;
            std::string_view data;
            outcome = reader.next(std::string_view(wire).substr(at), used, data, error);
            at += used;
        }
        require(outcome == Parse::Done && reader.received() == 102400);
    });
}

void bench_response() {
    const HttpPolicy policy;
    RequestHead head;
    HttpError error;
    HeadParser parser;
    size_t used = 0;
    require(parser.parse(kSmallHead, policy, {}, head, used, error) == Parse::Done);
    const ResponseOptions options;
    ResponseWriter writer;
    measure("render 200 with two fields and a length", 500, [&] {
        writer.begin(head, true, options);
        require(writer.set_status("200 OK").is_ok());
        require(writer.add_field("Content-Type", "text/html; charset=utf-8").is_ok());
        require(writer.add_field("Content-Length", "13").is_ok());
        require(writer.body(13, true).take == 13);
    });
    measure("render 200 with ten fields, one chunk", 500, [&] {
        writer.begin(head, true, options);
        require(writer.set_status("200 OK").is_ok());
        for (const char* name : {"Content-Type", "Vary", "ETag", "Cache-Control", "X-Frame-Options",
                                 "X-Content-Type-Options", "Referrer-Policy", "Set-Cookie",
                                 "Content-Language", "Cross-Origin-Opener-Policy"}) {
            require(writer.add_field(name, "a value of thirty-one characters").is_ok());
        }
        require(writer.body(1024, true).take == 1024);
    });
}

}  // namespace

int main() {
    bench_parse("parse a head of 4 fields", kSmallHead, false);
    bench_parse("parse a head of 21 browser fields", kBrowserHead, false);
    bench_parse("the same from a trusted peer", kBrowserHead, true);
    bench_drip("the same, a byte at a time", kBrowserHead);
    bench_drip(
        "a head of 64 KiB, a byte at a time", "GET / HTTP/1.1\r\nHost: a\r\n" + [] {
            std::string fields;
            for (int i = 0; i < 8; ++i)
                fields += "X: " + std::string(8180, 'v') + "\r\n";
            return fields;
        }() + "\r\n");
    bench_body();
    bench_response();
}
