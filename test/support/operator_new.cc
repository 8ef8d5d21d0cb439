#include "support/operator_new.h"

#include <cstdlib>
#include <new>

void* operator new(std::size_t bytes) {
  kolo::testing::before_allocation(bytes);
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes); memory != nullptr) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*bytes*/) noexcept { std::free(memory); }
