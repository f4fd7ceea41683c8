// Writes the inputs of the request corpus as raw files, one per case: seeds for the fuzz targets.
//
//     write_seeds head DIRECTORY      whole messages, for http_parse_fuzz
//     write_seeds body DIRECTORY      what follows each chunked head, for body_fuzz
//     write_seeds connection DIRECTORY    each message alone and after its predecessor, for
//                                         connection_fuzz
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/request_corpus.h"

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: write_seeds head|body|connection DIRECTORY\n");
        return 2;
    }
    const std::string_view kind = argv[1];
    std::filesystem::create_directories(argv[2]);
    size_t count = 0;
    const auto write = [&](const std::string& seed) {
        char name[32];
        std::snprintf(name, sizeof name, "corpus-%04zu", count++);
        std::ofstream(std::filesystem::path(argv[2]) / name, std::ios::binary) << seed;
    };
    std::string predecessor;
    for (const auto& test : gcorn::test::read_corpus(gcorn::test::corpus_directory())) {
        const std::string& input = test.input;
        // The first byte chooses what body_fuzz and connection_fuzz do with the rest.
        if (kind == "head") {
            write(input);
        } else if (kind == "body") {
            const size_t end = input.find("\r\n\r\n");
            if (end == std::string::npos || input.find("chunked") > end) continue;
            write('\0' + input.substr(end + 4));
        } else {
            write('\0' + input);
            write('\1' + predecessor + input);
            const bool is_whole = gcorn::test::run(input, {}, test.policy, test.peer).kind ==
                                  gcorn::test::Outcome::Kind::Complete;
            if (is_whole) predecessor = input;
        }
    }
    std::printf("wrote %zu seeds\n", count);
    return 0;
}
