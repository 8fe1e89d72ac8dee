# Every input of the bake. The defaults are where `make image-inputs` and `make image-base` put things, so
#
#   packer build packer/image
#
# works from the repository's folder once they are there; a missing one is named together with what makes it. Paths
# are seen from where packer is called. Packer's functions see them from other places, so they get absolute ones.

variable "base_image" {
  type        = string
  description = "Bootable disk with the base system: what `provision image base` makes."
  default     = "target/images/holdfast-single-base.qcow2"
  validation {
    condition     = fileexists(abspath(var.base_image))
    error_message = "The base_image is missing: make it with `make image-base`, or set -var base_image=FILE."
  }
}

variable "base_checksum" {
  type        = string
  description = "sha256:HEX of the base_image, or none."
  default     = "none"
}

variable "holdfast_binary" {
  type        = string
  description = "The server, built for the image's release and stripped."
  default     = "target/images/bake/holdfast"
  validation {
    condition     = fileexists(abspath(var.holdfast_binary))
    error_message = "The holdfast_binary is missing: make it with `make image-inputs`, or set -var holdfast_binary=FILE."
  }
}

variable "provision_binary" {
  type        = string
  description = "The provisioner, built for the image's release and stripped."
  default     = "target/images/bake/provision"
  validation {
    condition     = fileexists(abspath(var.provision_binary))
    error_message = "The provision_binary is missing: make it with `make image-inputs`, or set -var provision_binary=FILE."
  }
}

variable "provision_file" {
  type        = string
  description = "What the provisioner applies in the guest."
  default     = "images/single/provision.toml"
  validation {
    condition     = fileexists(abspath(var.provision_file))
    error_message = "The provision_file is missing: it lies in the image's folder, or set -var provision_file=FILE."
  }
}

variable "ssh_key" {
  type        = string
  description = "Private key for this bake alone, with FILE.pub beside it. It opens nothing once the image is finished."
  default     = "target/images/bake/key"
  validation {
    condition     = fileexists(abspath(var.ssh_key)) && fileexists(abspath("${var.ssh_key}.pub"))
    error_message = "The ssh_key or its .pub is missing: make both with `make image-inputs`, or set -var ssh_key=FILE."
  }
}

variable "output_dir" {
  type        = string
  description = "Folder for the baked disk. It must not exist (or say -force)."
  default     = "target/images/bake/packer"
}

variable "image_name" {
  type        = string
  description = "Name of the image, without an ending."
  default     = "holdfast-single"
  validation {
    condition     = regex_replace(var.image_name, "[^a-z0-9.-]", "") == var.image_name
    error_message = "The image_name may hold only lower case letters, digits, dots and dashes."
  }
}

variable "accelerator" {
  type        = string
  description = "kvm or tcg. `provision image build` tries whether KVM really works; an existing /dev/kvm proves nothing."
  default     = "tcg"
  validation {
    condition     = var.accelerator == "tcg" || var.accelerator == "kvm"
    error_message = "The accelerator must be kvm or tcg."
  }
}

variable "memory_mib" {
  type        = number
  description = "Memory of the guest while baking, in MiB."
  default     = 1024
}

variable "cpus" {
  type        = number
  description = "Processors of the guest while baking."
  default     = 2
}
