/* What --lora says: FILE[:WEIGHT], as often as wanted. */
#ifndef NB_CLI_LORA_H
#define NB_CLI_LORA_H

#include "cli/options.h"
#include "pipeline/pipeline.h"

/* Puts the files of the list on the pipeline. FILE is a file, a folder with one, or org/name in
 * the Hugging Face cache; what stands behind its last colon is the weight, if it is a number
 * and no file has the whole name. E_USAGE for a weight that is not finite. */
nb_status nb_lora_use_list(nb_pipeline *pipeline, const nb_option_list *list, int lenient,
                           nb_compute compute) NB_MUST_CHECK;

#endif
