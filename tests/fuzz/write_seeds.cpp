// Writes the inputs of the request corpus as raw files, one a case: seeds for the fuzz targets.
//
//     write_seeds head DIRECTORY      whole messages, for http_parse_fuzz
//     write_seeds body DIRECTORY      what follows each chunked head, for body_fuzz
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/request_corpus.h"

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: write_seeds head|body DIRECTORY\n");
        return 2;
    }
    const bool wants_body = std::string_view(argv[1]) == "body";
    std::filesystem::create_directories(argv[2]);
    size_t count = 0;
    for (const auto& test : gcorn::test::read_corpus(gcorn::test::corpus_directory())) {
        std::string seed = test.input;
        if (wants_body) {
            const size_t end = seed.find("\r\n\r\n");
            if (end == std::string::npos || seed.find("chunked") > end) continue;
            seed = '\0' + seed.substr(end + 4);  // the first byte chooses what body_fuzz does
        }
        char name[32];
        std::snprintf(name, sizeof name, "corpus-%04zu", count++);
        std::ofstream(std::filesystem::path(argv[2]) / name, std::ios::binary) << seed;
    }
    std::printf("wrote %zu seeds\n", count);
    return 0;
}
