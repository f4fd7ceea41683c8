// What one access line costs in CPU time: formatting alone, and with the write(2) to a file.
//
//   g++ -std=c++20 -O2 -I. bench/micro_access.cpp log/*.cpp base/*.cpp -o micro_access
//   ./micro_access [lines] [file]      (defaults: 2000000, /tmp/micro_access.log)
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "log/access_log.h"
#include "log/log.h"

namespace {

using namespace gcorn;

/// The fields of a browser's request that the default format asks for.
std::optional<std::string_view> browser_field(char kind, std::string_view name) {
    if (kind == 'i' && name == "user-agent")
        return "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    if (kind == 'i' && name == "referer") return "https://www.example.com/a/page/before?with=query";
    return std::nullopt;
}

/// CPU time of this process, so that others on the machine matter little.
int64_t cpu_ns() {
    struct timespec now {};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

template <typename Body>
void measure(const char* what, long lines, Body body) {
    const int64_t start_ns = cpu_ns();
    for (long i = 0; i < lines; ++i)
        body();
    const int64_t spent_ns = cpu_ns() - start_ns;
    std::printf("%-34s %7.0f ns a line\n", what,
                static_cast<double>(spent_ns) / static_cast<double>(lines));
}

AccessLog compile_or_exit(const char* format) {
    Result<AccessLog> log = AccessLog::compile(format);
    if (log) return *log;
    std::fprintf(stderr, "%s\n", log.message().c_str());
    std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
    const long lines = argc > 1 ? std::atol(argv[1]) : 2'000'000;
    const char* path = argc > 2 ? argv[2] : "/tmp/micro_access.log";
    AccessRecord record;
    record.remote_addr = "192.0.2.17";
    record.method = "GET";
    record.request = "GET /articles/2026/07/a-title-of-some-length?page=2&order=date HTTP/1.1";
    record.path = "/articles/2026/07/a-title-of-some-length";
    record.query = "page=2&order=date";
    record.protocol = "HTTP/1.1";
    record.status = "200 OK";
    record.body_bytes = 48213;
    record.duration_us = 1834;
    record.app_us = 1711;
    record.queue_us = 12;
    record.pid = ::getpid();
    const FieldFinder find_field = browser_field;
    record.find_field = &find_field;

    const AccessLog text = compile_or_exit(kDefaultAccessFormat);
    const AccessLog json = compile_or_exit("json");
    std::string_view line;
    const auto format_with = [&](const AccessLog& log) { line = log.format(record); };
    measure("default format", lines, [&] { format_with(text); });
    measure("json", lines, [&] { format_with(json); });

    Logger logger;
    LogOptions options;
    options.accesslog = path;
    if (Status status = logger.open(options); !status) {
        std::fprintf(stderr, "%s\n", status.message().c_str());
        return 1;
    }
    const long writes = lines / 10;  // each is a system call
    format_with(text);
    measure("write alone", writes, [&] { logger.write_access(line); });
    measure("default format and write", writes, [&] {
        format_with(text);
        logger.write_access(line);
    });
    measure("json and write", writes, [&] {
        format_with(json);
        logger.write_access(line);
    });
    ::unlink(path);
    return 0;
}
