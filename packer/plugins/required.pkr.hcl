# Only `packer init packer/plugins` reads this folder, with Packer 1.7 or later. Debian 12's Packer 1.6.6 has the
# builder built in and would refuse this block, so it must not lie beside the template.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.0.9"
    }
  }
}
