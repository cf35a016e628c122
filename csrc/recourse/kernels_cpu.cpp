#include "recourse/kernels.h"

#include "recourse/cone.h"
#include "recourse/quadric.h"
