/* spiking-resnet-m: a strictly spiking network, in whole numbers. Written by onespike 0.2.0.

   Flash   1,447,967 bytes of constants, beside the code
   RAM     281,712 bytes of static memory, and 2,672 bytes of arrays on the stack,
           beside the caller's image (3,072 bytes) and scores (40 bytes)
   Work    at most 223,421,004 additions of an 8-bit weight for an image, each done only where there is a
           spike; at most 11,675,614 multiplications of whole and fixed-point numbers

   C99, without a heap or a library; not reentrant. Class scores times 2^-MODEL_SCORE_BITS are the logits. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_HEIGHT 32
#define MODEL_WIDTH 32
#define MODEL_CHANNELS 3
#define MODEL_CLASSES 10
#define MODEL_CLASS_NAMES {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
#define MODEL_SCORE_BITS 23

#ifdef __cplusplus
extern "C" {
#endif

/* Classify an image, MODEL_HEIGHT x MODEL_WIDTH pixels of MODEL_CHANNELS bytes each, row by row, not normalised: gives
   the number of the class, and in `scores` the scores of all MODEL_CLASSES. */
int model_run(const uint8_t *image, int32_t *scores);

#ifdef __cplusplus
}
#endif

#endif
