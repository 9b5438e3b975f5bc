/* Errors: a negative code for the program, a sentence for the person.
 *
 * The function that first sees a failure calls err_set.  A caller that can
 * say where it happened calls err_in, which puts its words in front:
 *
 *     block 17: down_proj: cholesky: pivot 2048 is not positive
 *
 * Both return the code, so they are written as `return err_set(...)`.  The
 * sentence belongs to the calling thread and is read only after a failure. */
#ifndef QJOB_BASE_ERR_H
#define QJOB_BASE_ERR_H

enum {
	E_OK      = 0,
	E_USE     = -1,  /* the recipe or command line asks for what we cannot do */
	E_DATA    = -2,  /* the bytes are not what they claim to be */
	E_SYS     = -3,  /* the system refused: file, network, memory, device */
	E_NUMERIC = -4,  /* the arithmetic broke down */
	E_GATE    = -5,  /* all was done, and a limit of the recipe is exceeded */
};

int err_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int err_sys(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* appends errno */
int err_in(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *err_text(void);

#endif
