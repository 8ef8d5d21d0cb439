// kolorun's options as Boost reads and describes them.
#pragma once

#include <boost/program_options.hpp>
#include <string>

namespace kolo::launch {

/// Those that a config file may have, too.
boost::program_options::options_description run_options();

boost::program_options::options_description all_options();

/// What --help prints.
std::string help_text();

}  // namespace kolo::launch
