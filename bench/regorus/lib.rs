//! regorus behind two C functions: a policy compiled for its virtual machine once, then one decision for each JSON text.

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::{Engine, Rc, Value};
use std::ffi::{c_char, CStr};

/// A machine with `policy` loaded that answers `rule` (both are NUL-terminated UTF-8), or null when it does not compile.
///
/// # Safety
/// Both pointers are valid C strings.
#[no_mangle]
pub unsafe extern "C" fn regorus_open(policy: *const c_char, rule: *const c_char) -> *mut RegoVM {
    let text = |at: *const c_char| unsafe { CStr::from_ptr(at) }.to_str().map(str::to_owned);
    let open = || -> Result<RegoVM, Box<dyn std::error::Error>> {
        let (policy, rule) = (text(policy)?, text(rule)?);
        let mut engine = Engine::new();
        engine.add_policy("policy.rego".to_owned(), policy)?;
        let compiled = engine.compile_with_entrypoint(&Rc::from(rule.as_str()))?;
        let mut machine = RegoVM::new();
        machine.load_program(Compiler::compile_from_policy(&compiled, &[&rule])?);
        Ok(machine)
    };
    open().map_or(std::ptr::null_mut(), |machine| Box::into_raw(Box::new(machine)))
}

/// 1 when the rule is true for this input, 0 when it is not, -1 when the input is no JSON or the machine fails.
///
/// # Safety
/// `machine` comes from `regorus_open`; `json` is a valid C string.
#[no_mangle]
pub unsafe extern "C" fn regorus_decide(machine: *mut RegoVM, json: *const c_char) -> i32 {
    let machine = unsafe { &mut *machine };
    let Ok(Ok(input)) = unsafe { CStr::from_ptr(json) }.to_str().map(Value::from_json_str) else {
        return -1;
    };
    machine.set_input(input);
    machine.execute().map_or(-1, |answer| i32::from(answer == Value::Bool(true)))
}
