// One rank of a program that stops when it is told to, as stop_test.py does: then it returns or,
// with the argument "stays", does not end by itself.

#include <kolo/init.h>
#include <kolo/stop.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string_view>
#include <thread>

int main(int count, char** arguments) {
  kolo::init();
  int steps = 0;
  for (; !kolo::stop_requested(); ++steps) {
    if (steps == 0) std::printf("rank %d is process %d\n", kolo::rank(), ::getpid());
    std::fflush(stdout);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::printf("stopped after %d steps\n", steps);
  std::fflush(stdout);
  while (count > 1 && std::string_view(arguments[1]) == "stays") ::pause();
}
