#include "base/build_id.h"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace kolo::core {
namespace {

constexpr std::string_view kGnu("GNU\0", 4);

/// Notes lie one after the other: a header, a name, and what it says, each padded to 4 bytes.
std::string find_in_notes(std::span<const std::byte> notes) {
  const auto padded = [](std::size_t bytes) { return (bytes + 3) / 4 * 4; };
  while (notes.size() >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) header{};
    std::memcpy(&header, notes.data(), sizeof(header));
    notes = notes.subspan(sizeof(header));
    const std::size_t name = padded(header.n_namesz);
    const std::size_t content = padded(header.n_descsz);
    if (name + content > notes.size()) break;
    const std::string_view owner(reinterpret_cast<const char*>(notes.data()), header.n_namesz);
    if (header.n_type == NT_GNU_BUILD_ID && owner == kGnu) {
      std::string digits;
      for (const std::byte byte : notes.subspan(name, header.n_descsz)) {
        digits += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
      }
      return digits;
    }
    notes = notes.subspan(name + content);
  }
  return {};
}

/// One of the objects that the process consists of: the one with this function is ours.
int look_at(dl_phdr_info* object, std::size_t /*size*/, void* found) {
  const std::span headers(object->dlpi_phdr, object->dlpi_phnum);
  const auto own = reinterpret_cast<std::uintptr_t>(&look_at);
  bool is_ours = false;
  std::string id;
  for (const auto& header : headers) {
    const std::uintptr_t begin = object->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_LOAD && own >= begin && own - begin < header.p_memsz) is_ours = true;
    if (header.p_type == PT_NOTE && id.empty()) {
      id = find_in_notes({reinterpret_cast<const std::byte*>(begin), header.p_memsz});
    }
  }
  if (is_ours) *static_cast<std::string*>(found) = id;
  return is_ours ? 1 : 0;
}

}  // namespace

std::string build_id() {
  std::string id;
  dl_iterate_phdr(&look_at, &id);
  return id;
}

}  // namespace kolo::core
