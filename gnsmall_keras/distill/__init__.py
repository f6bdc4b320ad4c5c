"""Knowledge distillation: losses, teachers, caches and the Distiller."""
