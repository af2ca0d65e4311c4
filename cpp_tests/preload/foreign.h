/* What the functions of foreign.c answer. */
#ifndef FOREIGN_H
#define FOREIGN_H
#define FOREIGN 47110815
#define FOREIGN_POINTER ((void *)0x464f5245) /* "FORE" */
#endif
