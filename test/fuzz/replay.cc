// Where there is no libFuzzer: runs the entry on each file of the folder given, and on what one
// wrong byte or an early end makes of it.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

/// In memory of exactly the size, so that AddressSanitizer sees what is read outside of it.
void run(const Bytes& bytes) {
  const auto exact = std::make_unique<std::uint8_t[]>(bytes.size());
  std::ranges::copy(bytes, exact.get());
  LLVMFuzzerTestOneInput(exact.get(), bytes.size());
}

void run_with_faults(const Bytes& bytes) {
  run(bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    run(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(i)));
    for (unsigned value = 0; value < 256; ++value) {
      Bytes wrong = bytes;
      wrong[i] = static_cast<std::uint8_t>(value);
      run(wrong);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return EXIT_FAILURE;
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream file(entry.path(), std::ios::binary);
    run_with_faults(Bytes(std::istreambuf_iterator<char>(file), {}));
    ++files;
  }
  std::printf("%d files\n", files);
  return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
