#include "threads.h"

extern "C" void use_openmp(void* parallel) { openmp = reinterpret_cast<Parallel>(parallel); }
