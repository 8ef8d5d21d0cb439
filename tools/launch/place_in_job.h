// kolorun itself may run in a rank of a job.
#pragma once

namespace kolo::launch {

/// Removes from the environment of this process what tells it its place among the ranks of a job:
/// what it starts belongs to another job. An mpirun that finds these variables ends without a word.
/// Also the timeline of the job that is left, if that is Kolo's. Call it before there are threads.
void forget_place_in_job();

}  // namespace kolo::launch
