#include "checksum.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace resnet_example {
namespace {

constexpr std::size_t kChunk = 1 << 18;
constexpr std::size_t kSealSize = 64;  // of a SHA-256 in hexadecimal

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    require(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  void add(std::string_view bytes) {
    require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }

  std::string hexadecimal() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    require(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1);
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  static void require(bool good) {
    if (!good) throw std::runtime_error("OpenSSL cannot compute a SHA-256");
  }

  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

std::string sha256_of(std::string_view bytes) {
  Sha256 sha256;
  sha256.add(bytes);
  return sha256.hexadecimal();
}

}  // namespace

std::string sha256_of_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  Sha256 sha256;
  std::array<char, kChunk> chunk;
  while (file) {
    file.read(chunk.data(), chunk.size());
    sha256.add({chunk.data(), static_cast<std::size_t>(file.gcount())});
  }
  if (!file.eof()) {
    throw std::runtime_error(
        fmt::format("cannot read {}: {}", path.string(), std::generic_category().message(errno)));
  }
  return sha256.hexadecimal();
}

std::string sealed(std::string bytes) {
  const std::string seal = sha256_of(bytes);
  return std::move(bytes) + seal;
}

std::optional<std::string_view> unsealed(std::string_view bytes) {
  if (bytes.size() < kSealSize) return std::nullopt;
  const std::string_view contents = bytes.substr(0, bytes.size() - kSealSize);
  if (bytes.substr(contents.size()) != sha256_of(contents)) return std::nullopt;
  return contents;
}

}  // namespace resnet_example
