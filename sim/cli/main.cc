#include "sim/cli/commands.h"

int main(int argc, char** argv) { return poolsim::RunCommandLine(argc, argv); }
