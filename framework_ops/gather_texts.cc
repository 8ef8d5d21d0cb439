#include "gather_texts.h"

#include <kolo/init.h>
#include <kolo/ops.h>
#include <torch/torch.h>

#include <cstring>

namespace kolo::detail {

std::vector<RankText> gather_texts(const std::string& name, const std::string& text,
                                   const ProcessSet& process_set) {
  // The rank, for it is not known who the members are.
  const std::string own = std::to_string(rank()) + '\n' + text;
  torch::Tensor bytes = torch::empty({static_cast<std::int64_t>(own.size())}, torch::kUInt8);
  std::memcpy(bytes.data_ptr(), own.data(), own.size());
  Work work = allgather_async(bytes, {.name = name, .process_set = process_set});
  bytes = work.result();

  std::vector<RankText> texts;
  const char* begin = static_cast<const char*>(bytes.data_ptr());
  for (const std::int64_t size : work.received_splits()) {
    const std::string one(begin, static_cast<std::size_t>(size));
    const std::size_t end_of_rank = one.find('\n');
    texts.push_back({std::stoi(one.substr(0, end_of_rank)), one.substr(end_of_rank + 1)});
    begin += size;
  }
  return texts;
}

}  // namespace kolo::detail
