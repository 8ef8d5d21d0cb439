#pragma once

/// What each rank tells all others in one operation of a plan: as many bytes on each of them.

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace kolo {

template <typename Head>
struct Word {
  static_assert(std::is_trivially_copyable_v<Head>);

  Head head;
  /// As many on all ranks.
  std::vector<bool> flags;

  /// What an all-gather takes, and what it gives: all ranks' words.
  torch::Tensor to_bytes() const;
  static std::vector<Word> from_bytes(const torch::Tensor& bytes, std::size_t flags);
};

template <typename Head>
torch::Tensor Word<Head>::to_bytes() const {
  const std::size_t size = sizeof(Head) + (flags.size() + 7) / 8;
  torch::Tensor bytes = torch::zeros({static_cast<std::int64_t>(size)}, torch::kUInt8);
  auto* const begin = bytes.data_ptr<std::uint8_t>();
  std::memcpy(begin, &head, sizeof(Head));
  for (std::size_t i = 0; i < flags.size(); ++i) {
    std::uint8_t& eight = begin[sizeof(Head) + i / 8];
    if (flags[i]) eight = static_cast<std::uint8_t>(eight | (1U << (i % 8)));
  }
  return bytes;
}

template <typename Head>
std::vector<Word<Head>> Word<Head>::from_bytes(const torch::Tensor& bytes, std::size_t flags) {
  const std::size_t size = sizeof(Head) + (flags + 7) / 8;
  const auto* const begin = bytes.data_ptr<std::uint8_t>();
  std::vector<Word> words;
  for (std::size_t at = 0; at < static_cast<std::size_t>(bytes.numel()); at += size) {
    Word& word = words.emplace_back();
    std::memcpy(&word.head, begin + at, sizeof(Head));
    for (std::size_t i = 0; i < flags; ++i) {
      word.flags.push_back(((begin[at + sizeof(Head) + i / 8] >> (i % 8)) & 1U) != 0);
    }
  }
  return words;
}

}  // namespace kolo
