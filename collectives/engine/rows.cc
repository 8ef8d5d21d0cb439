#include "engine/rows.h"

#include <utility>

namespace kolo::core {

std::vector<std::int64_t> splits_of(const Request& request, std::size_t members) {
  return request.splits.empty() ? slices_of(request, members) : request.splits;
}

std::vector<std::int64_t> slices_of(const Request& request, std::size_t members) {
  const auto count = static_cast<std::int64_t>(members);
  const std::int64_t rows = request.shape.front();
  std::vector<std::int64_t> slices(members, rows / count);
  for (std::size_t member = 0; std::cmp_less(member, rows % count); ++member) ++slices[member];
  return slices;
}

void describe_rows(const Request& request, const std::vector<std::int64_t>& rows,
                   Collective& collective) {
  const std::int64_t row = element_count({request.shape.begin() + 1, request.shape.end()});
  for (const std::int64_t count : rows) collective.counts.push_back(count * row);
  collective.count = elements_before(collective.counts, collective.counts.size());
  if (request.kind != CollectiveKind::Alltoall) return;
  for (const std::int64_t count : splits_of(request, rows.size())) {
    collective.splits.push_back(count * row);
  }
}

}  // namespace kolo::core
