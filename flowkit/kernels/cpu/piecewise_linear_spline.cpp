#include "exports.h"
#include "piecewise_linear_spline.h"

EXPORT(piecewise_linear_spline, with_piecewise_linear<T>(bins, ends, inverse, low, high, use), int bins, double low, double high, int ends)
