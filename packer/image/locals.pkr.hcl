locals {
  # cx16=off: kernels of Debian 13 crash under QEMU's emulation of cmpxchg16b; it costs others nothing.
  cpu_model = var.accelerator == "kvm" ? "host" : "max,cx16=off"

  # systemd puts this credential into /root/.ssh/authorized_keys at boot; the file goes with the bake's other traces.
  authorized_key = base64encode(file(abspath("${var.ssh_key}.pub")))

  # Where the inputs wait in the guest; everything there is gone in the image.
  staging = "/tmp/bake"
}
