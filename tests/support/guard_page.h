// GuardPage: memory that ends at an unreadable page. Bytes placed there end right before that page,
// so that reading one byte too far crashes the test at once, in every build.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace gcorn::test {

class GuardPage {
public:
    /// Room for placing up to `bytes_max` bytes.
    explicit GuardPage(size_t bytes_max) {
        const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
        const size_t readable = (bytes_max + page - 1) / page * page;
        mapped_ = readable + page;
        void* memory =
            ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        start_ = static_cast<char*>(memory);
        end_ = start_ + readable;
        if (::mprotect(end_, page, PROT_NONE) != 0) std::abort();
    }
    GuardPage(const GuardPage&) = delete;
    GuardPage& operator=(const GuardPage&) = delete;
    ~GuardPage() { ::munmap(start_, mapped_); }

    /// A copy of `bytes` before the unreadable page; valid until the next call.
    [[nodiscard]] std::string_view place(std::string_view bytes) {
        if (bytes.size() > static_cast<size_t>(end_ - start_)) std::abort();
        char* first = end_ - bytes.size();
        if (!bytes.empty()) std::memcpy(first, bytes.data(), bytes.size());
        return {first, bytes.size()};
    }

private:
    char* start_ = nullptr;
    char* end_ = nullptr;
    size_t mapped_ = 0;
};

}  // namespace gcorn::test
