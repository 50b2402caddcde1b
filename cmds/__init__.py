"""The commands of PSPF, one file each: options, one call into the library, printing."""
