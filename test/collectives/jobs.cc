#include "jobs.h"

#include <numeric>
#include <utility>

namespace kolo::core::jobs {
namespace {

using oracle::Bytes;
using Counts = std::vector<std::int64_t>;

Collective collective(CollectiveKind kind, DataType dtype, std::int64_t count) {
  Collective c;
  c.kind = kind;
  c.dtype = dtype;
  c.count = count;
  return c;
}

std::int64_t sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Of a vector that is cut like this, number `index`.
Bytes piece(const Bytes& bytes, const Counts& counts, std::size_t index, DataType dtype) {
  const auto element = static_cast<std::ptrdiff_t>(size_of(dtype));
  const auto before = static_cast<std::ptrdiff_t>(index);
  const auto begin = bytes.begin() + sum({counts.begin(), counts.begin() + before}) * element;
  return {begin, begin + counts[index] * element};
}

/// As equal as can be; or all of it to the last but one element, which the first one gets.
Counts slices(std::int64_t count, int members, bool skewed) {
  Counts counts;
  for (int m = 0; m < members; ++m) {
    counts.push_back(count / members + (m < count % members ? 1 : 0));
  }
  if (skewed && members > 1 && count > 0) {
    counts.assign(static_cast<std::size_t>(members), 0);
    counts.front() = 1;
    counts.back() = count - 1;
  }
  return counts;
}

Job reducescatter(Collective c, int members, bool skewed) {
  c.kind = CollectiveKind::Reducescatter;
  c.counts = slices(c.count, members, skewed);
  return {.collective = std::move(c)};
}

/// The first member gives so much.
Job allgather(DataType dtype, std::int64_t count, int members, std::int64_t first, bool equal) {
  Collective c = collective(CollectiveKind::Allgather, dtype, 0);
  for (int m = 0; m < members; ++m) {
    c.counts.push_back(equal ? count : m == 0 ? first : count / (m + 1));
  }
  c.count = sum(c.counts);
  return {.collective = std::move(c)};
}

enum class Splits { Equal, Uneven, OneGives, OneTakes };

Job alltoall(DataType dtype, std::int64_t count, int members, Splits splits) {
  Job job{.collective = collective(CollectiveKind::Alltoall, dtype, 0)};
  for (int giver = 0; giver < members; ++giver) {
    Counts& row = job.splits.emplace_back();
    for (int taker = 0; taker < members; ++taker) {
      const bool all = splits == Splits::Equal || (splits == Splits::OneGives && giver == 0) ||
                       (splits == Splits::OneTakes && taker == members - 1);
      const std::int64_t share = count * ((giver + 2 * taker) % 3) / 2;
      row.push_back(all ? count : splits == Splits::Uneven ? share : 0);
    }
  }
  return job;
}

}  // namespace

Collective part_of(const Job& job, int member) {
  Collective c = job.collective;
  c.member = member;
  if (c.kind != CollectiveKind::Alltoall) return c;
  c.splits = job.splits[static_cast<std::size_t>(member)];
  for (const Counts& row : job.splits) c.counts.push_back(row[static_cast<std::size_t>(member)]);
  c.count = sum(c.counts);
  return c;
}

Bytes input_of(const Job& job, int member) {
  const Collective c = part_of(job, member);
  const auto own = static_cast<std::size_t>(member);
  const std::int64_t count = c.kind == CollectiveKind::Allgather  ? c.counts[own]
                             : c.kind == CollectiveKind::Alltoall ? sum(c.splits)
                                                                  : c.count;
  return oracle::random_values(c.dtype, count, job.seed * 100 + own);
}

std::vector<Bytes> shares_for(const Job& job, int member, const std::vector<Bytes>& inputs) {
  const Collective& c = job.collective;
  const auto own = static_cast<std::size_t>(member);
  std::vector<Bytes> shares = inputs;
  for (std::size_t giver = 0; giver < inputs.size(); ++giver) {
    if (c.kind == CollectiveKind::Reducescatter) {
      shares[giver] = piece(inputs[giver], c.counts, own, c.dtype);
    } else if (c.kind == CollectiveKind::Alltoall) {
      shares[giver] = piece(inputs[giver], job.splits[giver], own, c.dtype);
    }
  }
  return shares;
}

Bytes moved(const Collective& c, const std::vector<Bytes>& shares) {
  if (c.kind == CollectiveKind::Broadcast) return shares[static_cast<std::size_t>(c.root_member)];
  Bytes all;
  for (const Bytes& share : shares) all.insert(all.end(), share.begin(), share.end());
  return all;
}

std::vector<Collective> allreduces(DataType dtype, std::int64_t count) {
  std::vector<Collective> all;
  for (int op = 0; op < (count < kLarge ? kReduceOpCount : 1); ++op) {
    Collective c = collective(CollectiveKind::Allreduce, dtype, count);
    c.op = static_cast<ReduceOp>(op);
    if (dtype != DataType::Bool || c.op != ReduceOp::Average) all.push_back(c);
  }
  if (is_floating(dtype) && count < kLarge) {
    Collective c = collective(CollectiveKind::Allreduce, dtype, count);
    c.prescale = 0.3;
    c.postscale = 1.7;
    all.push_back(c);
    c.postscale = 0.7;
    all.push_back(c);
  }
  return all;
}

std::vector<Job> all_kinds(std::vector<Collective> allreduces, DataType dtype, std::int64_t count,
                           int members) {
  const bool large = count >= kLarge;
  std::vector<Job> jobs;
  for (const Collective& c : allreduces) {
    jobs.push_back({.collective = c});
    jobs.push_back(reducescatter(c, members, /*skewed=*/false));
  }
  if (!allreduces.empty() && !large) {
    jobs.push_back(reducescatter(allreduces.front(), members, /*skewed=*/true));
  }
  for (int root = large ? members - 1 : 0; root < members; ++root) {
    Collective c = collective(CollectiveKind::Broadcast, dtype, count);
    c.root_member = root;
    jobs.push_back({.collective = c});
  }
  jobs.push_back(allgather(dtype, count, members, 2 * count, /*equal=*/false));
  jobs.push_back(alltoall(dtype, count, members, Splits::Uneven));
  if (large) return jobs;
  jobs.push_back(allgather(dtype, count, members, 0, /*equal=*/false));
  jobs.push_back(allgather(dtype, count, members, count, /*equal=*/true));
  for (const Splits splits : {Splits::Equal, Splits::OneGives, Splits::OneTakes}) {
    jobs.push_back(alltoall(dtype, count, members, splits));
  }
  return jobs;
}

}  // namespace kolo::core::jobs
