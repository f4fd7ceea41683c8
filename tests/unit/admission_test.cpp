// How many connections a worker lets in, and which it leaves to a sibling: each rule at its limit.
#include "net/admission.h"

#include <gtest/gtest.h>

namespace gcorn {
namespace {

constexpr int64_t kNow = 1000;

class AdmissionTest : public testing::Test {
protected:
    /// Lets calls take all slots at kNow, then plans the next turn.
    void fill(Admission& admission, size_t slots) {
        for (size_t active = 0; active < slots; ++active)
            admission.call_came(kNow, active);
        admission.plan(kNow, slots);
    }

    Admission::HasSibling has_sibling = [this](Sibling kind, size_t with_fewer_than) {
        ++asked;
        return connections < with_fewer_than && (kind == Sibling::Any || is_idle);
    };
    bool is_idle = false;
    size_t connections = SIZE_MAX;  // nobody has fewer: there is no sibling
    int asked = 0;
};

TEST_F(AdmissionTest, EachFreeSlotTakesOne) {
    Admission admission(4, has_sibling);
    EXPECT_EQ(admission.budget(), 0u) << "before the first turn";
    for (size_t active = 0; active < 4; ++active) {
        admission.plan(kNow, active);
        EXPECT_EQ(admission.budget(), 4 - active);
        admission.call_came(kNow, active);
    }
    admission.plan(kNow, 4);
    EXPECT_EQ(admission.budget(), 0u);
    admission.call_came(kNow, 4);
    admission.plan(kNow, 5);
    EXPECT_EQ(admission.budget(), 0u) << "one waits";
}

TEST_F(AdmissionTest, SpendsItsBudget) {
    Admission admission(2, {});
    admission.plan(kNow, 0);
    admission.spend();
    EXPECT_EQ(admission.budget(), 1u);
    admission.set_budget(0);
    EXPECT_EQ(admission.budget(), 0u);
}

TEST_F(AdmissionTest, ACallThatEndsLetsOneIn) {
    Admission admission(2, has_sibling);
    fill(admission, 2);
    admission.call_came(kNow, 2);
    admission.call_came(kNow, 3);
    admission.plan(kNow, 4);
    EXPECT_EQ(admission.budget(), 0u);
    admission.plan(kNow, 2);  // two ended, and the two that waited run
    EXPECT_EQ(admission.budget(), 2u);
    admission.plan(kNow, 2);
    EXPECT_EQ(admission.budget(), 0u) << "once";
}

TEST_F(AdmissionTest, NotIfASiblingIsIdle) {
    Admission admission(1, has_sibling);
    fill(admission, 1);
    admission.call_came(kNow, 1);
    connections = 5;
    is_idle = true;
    admission.plan(kNow, 1);
    EXPECT_EQ(admission.budget(), 0u);
}

TEST_F(AdmissionTest, WhoBringsNoRequestPassesTheTurnOn) {
    Admission admission(1, has_sibling);
    fill(admission, 1);
    admission.pass_turn_on();
    admission.pass_turn_on();
    admission.plan(kNow + 1, 1);
    EXPECT_EQ(admission.budget(), 2u);
    admission.plan(kNow + 1, 1);
    EXPECT_EQ(admission.budget(), 0u) << "once";
}

TEST_F(AdmissionTest, ButNotWhileACallLasts) {
    Admission admission(1, has_sibling);
    fill(admission, 1);
    admission.pass_turn_on();
    admission.plan(kNow + Admission::kStuckMs, 1);
    EXPECT_EQ(admission.budget(), 0u);
    admission.call_came(kNow + Admission::kStuckMs, 1);
    admission.plan(kNow + Admission::kStuckMs + 1, 1);  // it ended; the next one runs
    EXPECT_EQ(admission.budget(), 2u) << "its turn, and the one that was passed on";
}

TEST_F(AdmissionTest, CountsWhatAConnectionBrought) {
    Admission admission(1, {});
    const uint64_t before = admission.events();
    admission.call_came(kNow, 0);
    admission.pass_turn_on();
    EXPECT_EQ(admission.events(), before + 2);
}

TEST_F(AdmissionTest, IsStuckWhenNoCallEnds) {
    Admission admission(2, {});
    fill(admission, 2);
    EXPECT_FALSE(admission.is_stuck(kNow + Admission::kStuckMs - 1, 2));
    EXPECT_TRUE(admission.is_stuck(kNow + Admission::kStuckMs, 2));
    EXPECT_FALSE(admission.is_stuck(kNow + Admission::kStuckMs, 1)) << "a slot is free";
    admission.call_came(kNow + Admission::kStuckMs, 2);
    EXPECT_TRUE(admission.is_stuck(kNow + Admission::kStuckMs, 3));
    EXPECT_FALSE(admission.is_stuck(kNow + Admission::kStuckMs, 2)) << "one ended in this turn";
}

TEST_F(AdmissionTest, TimeCountsFromTheLastFreeSlotOrEndOfACall) {
    Admission admission(1, {});
    fill(admission, 1);
    admission.call_came(kNow + 100, 1);
    EXPECT_TRUE(admission.is_stuck(kNow + 100, 2)) << "a request that waits frees no slot";
    admission.plan(kNow + 100, 1);
    EXPECT_FALSE(admission.is_stuck(kNow + 100 + Admission::kStuckMs - 1, 1));
    EXPECT_TRUE(admission.is_stuck(kNow + 100 + Admission::kStuckMs, 1));
    EXPECT_FALSE(admission.is_stuck_long(kNow + 100 + Admission::kStuckLongMs - 1));
    EXPECT_TRUE(admission.is_stuck_long(kNow + 100 + Admission::kStuckLongMs));
}

TEST_F(AdmissionTest, ASlotThatTakesNoRequestIsNotFree) {
    Admission admission(4, has_sibling);
    connections = 5;
    is_idle = true;  // or blocked, too
    admission.call_came(kNow, 0);
    admission.call_came(kNow + 1, 1);
    const int64_t blocked_ms = kNow + Admission::kStuckMs;
    admission.plan(blocked_ms - 1, 2, kNow);
    EXPECT_EQ(admission.budget(), 2u);
    admission.plan_again(blocked_ms, 2, kNow);
    EXPECT_EQ(admission.budget(), 0u);
    EXPECT_TRUE(admission.is_blocked());
    admission.call_came(blocked_ms, 2);
    EXPECT_FALSE(admission.is_stuck(blocked_ms, 3)) << "a call began a moment ago";
    EXPECT_TRUE(admission.is_stuck(blocked_ms + 1, 3));
    admission.plan(blocked_ms + 1, 2, kNow + 1);
    EXPECT_EQ(admission.budget(), 1u) << "one ended";
    admission.plan_again(blocked_ms + 1, 2, kNow + 1);
    EXPECT_EQ(admission.budget(), 1u);
    admission.plan(blocked_ms + 2, 2, INT64_MAX);
    EXPECT_EQ(admission.budget(), 2u);
    EXPECT_FALSE(admission.is_blocked());
}

TEST_F(AdmissionTest, ARequestThatWaitsForASlotBlocksNothing) {
    Admission admission(1, has_sibling);
    fill(admission, 1);
    admission.call_came(kNow, 1);
    connections = 0;
    is_idle = true;
    admission.plan(kNow + Admission::kStuckMs, 1, kNow);
    EXPECT_FALSE(admission.is_blocked());
    EXPECT_EQ(admission.budget(), 0u) << "a call has ended, but the sibling is idle";
}

TEST_F(AdmissionTest, LeavesOneToAnIdleSiblingWithFewerConnections) {
    Admission admission(1, has_sibling);
    admission.plan(kNow, 0);
    connections = 3;
    is_idle = true;
    EXPECT_TRUE(admission.leaves_to_sibling(kNow, 4));
    admission.was_taken();
    EXPECT_FALSE(admission.leaves_to_sibling(kNow, 3)) << "it has as many";
    is_idle = false;
    EXPECT_FALSE(admission.leaves_to_sibling(kNow, 4)) << "it is busy, we are not";
}

TEST_F(AdmissionTest, LeavesOneToABusySiblingIfItIsBusyToo) {
    Admission admission(1, has_sibling);
    fill(admission, 1);
    admission.call_came(kNow, 1);
    admission.plan(kNow, 1);  // a call has ended
    connections = 3;
    EXPECT_TRUE(admission.leaves_to_sibling(kNow, 4));
}

TEST_F(AdmissionTest, ForSoManyTurns) {
    Admission admission(1, has_sibling);
    admission.plan(kNow, 0);
    connections = 0;
    is_idle = true;
    for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < Admission::kTurnsGivenMax; ++i)
            EXPECT_TRUE(admission.leaves_to_sibling(kNow, 1)) << i;
        EXPECT_FALSE(admission.leaves_to_sibling(kNow, 1))
            << "then it is ours; the next begins anew";
    }
}

TEST_F(AdmissionTest, ForSoLong) {
    Admission admission(1, has_sibling);
    connections = 0;
    is_idle = true;
    admission.plan(kNow, 0);
    EXPECT_TRUE(admission.leaves_to_sibling(kNow, 1));
    EXPECT_TRUE(admission.leaves_to_sibling(kNow + Admission::kGiveIdleMs, 1));
    EXPECT_FALSE(admission.leaves_to_sibling(kNow + Admission::kGiveIdleMs + 1, 1));
    fill(admission, 1);
    admission.call_came(kNow, 1);
    admission.plan(kNow, 1);
    EXPECT_TRUE(admission.leaves_to_sibling(kNow, 1));
    EXPECT_TRUE(admission.leaves_to_sibling(kNow + Admission::kGiveBusyMs, 1));
    EXPECT_FALSE(admission.leaves_to_sibling(kNow + Admission::kGiveBusyMs + 1, 1));
}

TEST_F(AdmissionTest, TheNextOneHasItsOwnTime) {
    Admission admission(1, has_sibling);
    admission.plan(kNow, 0);
    connections = 0;
    is_idle = true;
    EXPECT_TRUE(admission.leaves_to_sibling(kNow, 1));
    admission.was_taken();
    EXPECT_TRUE(admission.leaves_to_sibling(kNow + 100, 1));
    EXPECT_TRUE(admission.leaves_to_sibling(kNow + 100 + Admission::kGiveIdleMs, 1));
}

TEST_F(AdmissionTest, WithoutSiblingsNothingIsLeft) {
    Admission admission(1, {});
    admission.plan(kNow, 0);
    EXPECT_FALSE(admission.has_sibling(Sibling::Any));
    EXPECT_FALSE(admission.leaves_to_sibling(kNow, 1));
}

}  // namespace
}  // namespace gcorn
