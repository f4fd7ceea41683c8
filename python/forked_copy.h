// Children of a fork() in the application or in a hook that come back to us, by sys.exit() or by
// returning.
//
// Such a process is a copy of a worker or of the arbiter: it shares the sockets and the poller, so
// it may neither answer, nor log, nor serve, nor stop the workers or remove the pid file. It ends
// as a script would (os.fork() in Python's documentation).
#pragma once

#include <csignal>

namespace gcorn {

/// Forks that led to this process since the first count_forks().
inline volatile sig_atomic_t forks_seen = 0;

/// Starts counting. Idempotent.
void count_forks();

/// Tells whether this process is a fork of the one that made the object. Costs one comparison.
class ForkWatch {
public:
    [[nodiscard]] bool is_copy() const { return forks_ != forks_seen; }

private:
    sig_atomic_t forks_ = forks_seen;
};

/// Runs atexit functions, flushes, and ends the process with the status of the SystemExit that is
/// raised, 1 for any other exception (which is printed), or 0. GIL held.
[[noreturn]] void end_forked_copy();

/// Calls call(), which runs Python code that is not ours: a forked copy of this process that comes
/// back from it ends here. GIL held.
template <typename Call>
[[nodiscard]] auto ending_copies(Call call) {
    const ForkWatch fork;
    auto result = call();
    if (fork.is_copy()) end_forked_copy();
    return result;
}

}  // namespace gcorn
