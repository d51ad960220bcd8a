// All that C sees of a scalar map: the map itself, and layers over it.
#pragma once
#include "conditioned.h"
#include "stepped.h"
#include "tiles.h"

#define EXPORT_IN(NAME, TYPE, SUFFIX, WITH, ...)                 \
    EXPORT_AS(NAME, TYPE, SUFFIX, WITH, __VA_ARGS__)             \
    EXPORT_CONDITIONED_AS(NAME, TYPE, SUFFIX, WITH, __VA_ARGS__) \
    EXPORT_STEPPED_AS(NAME, TYPE, SUFFIX, WITH, __VA_ARGS__)
#define EXPORT(NAME, WITH, ...) EXPORT_IN(NAME, float, float32, WITH, __VA_ARGS__) EXPORT_IN(NAME, double, float64, WITH, __VA_ARGS__)
