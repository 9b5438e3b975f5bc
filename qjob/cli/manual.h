/* The manual page and the completions, written from the same tables that parse the command line. */
#ifndef QJOB_CLI_MANUAL_H
#define QJOB_CLI_MANUAL_H

#include <stdio.h>

void manual_page(FILE *to);      /* roff, for man 1 */
void manual_bash(FILE *to);
void manual_zsh(FILE *to);

#endif
