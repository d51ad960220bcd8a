#include "exports.h"
#include "piecewise_quadratic_spline.h"

EXPORT(piecewise_quadratic_spline, with_piecewise_quadratic<T>(bins, ends, inverse, low, high, use), int bins, double low, double high, int ends)
