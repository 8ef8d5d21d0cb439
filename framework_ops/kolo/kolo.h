#pragma once

/// Data-parallel training for LibTorch. Begin with kolo::init(), kolo::DistributedOptimizer and
/// kolo::broadcast_parameters(); examples/minimal.cpp is the shortest complete program.

#include <kolo/agree.h>
#include <kolo/distributed_optimizer.h>
#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/ops.h>
#include <kolo/process_set.h>
#include <kolo/sampler.h>
#include <kolo/scalars.h>
#include <kolo/state_sync.h>
#include <kolo/stop.h>
