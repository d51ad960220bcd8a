#include "exports.h"
#include "bounded_affine.h"

EXPORT(bounded_affine, with_bounded_affine<T>(inverse, bound, use), double bound)
