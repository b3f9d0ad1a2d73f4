#include <string>

#include "sim/errors.h"
#include "tests/catch.h"

using poolsim::EditDistance;
using poolsim::UnknownName;

TEST_CASE("Edit distance counts inserts, deletes, replacements and swaps of neighbours, ignoring case", "[unit]") {
  CHECK(EditDistance("", "") == 0);
  CHECK(EditDistance("", "abc") == 3);
  CHECK(EditDistance("abc", "") == 3);
  CHECK(EditDistance("aegaeon", "Aegaeon") == 0);
  CHECK(EditDistance("aegaeon", "aegeon") == 1);
  CHECK(EditDistance("aegaeon", "eagaeon") == 1);
  CHECK(EditDistance("kitten", "sitting") == 3);
}

TEST_CASE("An unknown name is answered with the nearest known one and with all of them, sorted", "[unit]") {
  CHECK(UnknownName("policy", "aegeon", {"muxserve", "aegaeon", "dedicated"}) ==
        "unknown policy \"aegeon\"; did you mean \"aegaeon\"? known: aegaeon, dedicated, muxserve");
}

TEST_CASE("A name that is near to nothing gets no suggestion", "[unit]") {
  CHECK(UnknownName("policy", "zzzzzz", {"dedicated", "aegaeon"}) == "unknown policy \"zzzzzz\"; known: aegaeon, dedicated");
  CHECK(UnknownName("policy", "x", {}) == "unknown policy \"x\"; known: none");
}
