source "qemu" "debian" {
  iso_url          = var.base_image
  iso_checksum     = var.base_checksum
  disk_image       = true
  skip_resize_disk = true
  format           = "qcow2"
  output_directory = var.output_dir
  vm_name          = "${var.image_name}.qcow2"

  accelerator  = var.accelerator
  machine_type = "q35"
  memory       = var.memory_mib
  cpus         = var.cpus
  headless     = true

  # A bake that is cut short starts again, so nothing has to be on the disk before its end.
  disk_cache         = "unsafe"
  disk_discard       = "unmap"
  disk_detect_zeroes = "unmap"
  disk_interface     = "virtio"
  skip_compaction    = true
  net_device         = "virtio-net-pci"
  disable_vnc        = true

  boot_wait              = "1s"
  communicator           = "ssh"
  ssh_username           = "root"
  ssh_private_key_file   = var.ssh_key
  ssh_timeout            = "15m"
  ssh_handshake_attempts = 300
  host_port_min          = 21160
  host_port_max          = 21260
  shutdown_command       = "systemctl poweroff"
  shutdown_timeout       = "5m"

  # Packer's own -netdev listens on every address and its -vnc in spite of disable_vnc: both are given anew.
  qemuargs = [
    ["-cpu", local.cpu_model],
    ["-display", "none"],
    ["-vnc", "none"],
    ["-serial", "file:${var.output_dir}.serial.log"],
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
    ["-smbios", "type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root=${local.authorized_key}"],
  ]
}
