"""What every primitive of JAX does to numbers: the classes that rules can name.

A class says what rounding means for an operation:

- *contraction*: sums of products; operands are rounded before, the result after;
- *elementwise*: one real operation per number, such as a sum, a quotient or a square root;
- *function*: an elementary or special function of each number;
- *reduction*: sums and products of many numbers, scattered ones too;
- *collective*: numbers travel between devices, and may be added up on the way;
- *transform*: Fourier transforms and matrix decompositions, rounded as a whole.

The rest has nothing to round: *movement* selects or moves numbers, or changes their sign; *logic*
gives truth values, integers or bits; *random* draws numbers; *structure* holds other programs,
which are entered; *effect* is for its effect alone. An *opaque* operation hides what it computes:
a policy that does not name it is refused.

A primitive that is not known is refused too, until ``register`` says what it is.
"""

from types import MappingProxyType

from qsim.numbers.modes import suggest

__all__ = ["CLASSES", "ROUNDED", "class_of", "known", "register"]

ROUNDED = ("contraction", "elementwise", "function", "reduction", "collective", "transform")

_TABLE = {
    "contraction": """
        conv_general_dilated dot_general ragged_dot_general scaled_dot
    """,
    "elementwise": """
        add add_any ceil complex div floor integer_pow mul nextafter rem round sign sqrt square
        sub reciprocal
    """,
    "function": """
        acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf
        erf_inv erfc exp exp2 expm1 igamma igamma_grad_a igammac lgamma log log1p logistic
        polygamma pow regularized_incomplete_beta rsqrt sin sinh tan tanh zeta
    """,
    "reduction": """
        cumlogsumexp cumprod cumsum reduce reduce_prod reduce_sum reduce_window reduce_window_sum
        scatter-add scatter-mul scatter-sub select_and_scatter_add
    """,
    "collective": """
        all_gather all_gather_done all_gather_invariant all_gather_reduced
        all_gather_reduced_start all_gather_start all_to_all all_to_all_done all_to_all_start
        pbroadcast pbroadcast_done pbroadcast_start pmax pmin ppermute ppermute_done
        ppermute_start precv preduced psend psum psum_done psum_invariant psum_invariant_start
        psum_start ragged_all_to_all reduce_scatter reduce_scatter_done reduce_scatter_start
        unreduced_psum unreduced_psum_start unreduced_reduce_scatter
        unreduced_reduce_scatter_start
    """,
    "transform": """
        cholesky cholesky_update eig eigh fft geqp3 geqrf hessenberg householder_product lu ormqr
        qr schur svd symmetric_product triangular_solve tridiagonal tridiagonal_solve
    """,
    "movement": """
        abs approx_top_k argmax argmin bitcast_convert_type broadcast_in_dim broadcast_to clamp
        concatenate conj convert_element_type copy copy_p cummax cummin device_put dynamic_slice
        dynamic_update_slice empty empty2 from_edtype gather imag iota layout_constraint max min
        name neg optimization_barrier pad pvary real reduce_max reduce_min reduce_precision
        reduce_window_max reduce_window_min reduced_vary_cast_p reshape reshard rev scatter
        scatter-max scatter-min select_and_gather_add select_and_scatter select_n
        sharding_constraint slice sort split squeeze stack stage stop_gradient tie tile to_edtype
        top_k transpose unstack vary_unreduced_cast_p with_memory_space_constraint
        xla_metadata_value zeros_like
    """,
    "logic": """
        and axis_index clz dim_as_value dimension_size eq eq_to ge gt is_finite le le_to
        lt lt_to lu_pivots_to_permutation mulhi ne not or platform_index population_count
        reduce_and reduce_or reduce_xor shift_left shift_right_arithmetic shift_right_logical xor
    """,
    "random": """
        iota_2x32_shape philox2x32 philox4x32 random_bits random_clone random_fold_in
        random_gamma random_seed random_split random_unwrap random_wrap rng_bit_generator
        rng_uniform threefry2x32 threefry4x32
    """,
    "structure": """
        closed_call cond custom_jvp_call custom_linear_solve custom_vjp_call jit remat2 scan
        shard_map while
    """,
    "effect": """
        after_all check create_token dce_sink debug_callback debug_print inspect_sharding
        shape_assertion unreachable
    """,
    "opaque": """
        accum_grad_in_ref addupdate box_get box_set call call_exported call_hi_primitive
        call_hi_primitive_linearized composite core_map create_linear cudnn_fusion
        custom_jvp_call_jaxpr custom_lin custom_partitioning
        custom_vmap_call delay dot_product_attention_bwd dot_product_attention_bwd_wrapper
        dot_product_attention_fp8_bwd dot_product_attention_fp8_bwd_wrapper
        dot_product_attention_fp8_fwd dot_product_attention_fp8_fwd_wrapper
        dot_product_attention_fwd dot_product_attention_fwd_wrapper empty_ref eval_jaxpr ffi_call
        free_ref freeze get get_global io_callback jaxpr_call linear_call log_extend log_read
        masked_load masked_swap multiple_of new_box new_log new_ref num_programs pallas_call pin
        program_id pure_callback remat_opt run_scoped run_state scaled_matmul
        scaled_matmul_wrapper semaphore_read semaphore_signal semaphore_wait swap
        tpu_custom_call unpin
    """,
}
CLASSES = tuple(_TABLE)

_classes = {name: kind for kind, names in _TABLE.items() for name in names.split()}
known = MappingProxyType(_classes)


def class_of(primitive: str) -> str:
    """The class of a primitive; ``unknown`` if there is none.

    >>> class_of("dot_general"), class_of("tanh"), class_of("my_own")
    ('contraction', 'function', 'unknown')
    """
    return _classes.get(primitive, "unknown")


def register(primitive: str, kind: str) -> None:
    """Say what class a primitive of one's own belongs to.

    Args:
        primitive: its name, as jaxprs print it.
        kind: one of ``CLASSES`` but *structure* and *contraction*, which need code in qsim.

    Raises:
        ValueError: for an unknown class, or a primitive that has another one already.

    >>> register("tanh", "function")  # it is one already
    """
    free = [name for name in CLASSES if name not in ("structure", "contraction")]
    if kind not in free:
        raise ValueError(f"no class {kind!r} for {primitive}; {suggest(str(kind), free)}")
    if _classes.get(primitive, kind) != kind:
        raise ValueError(f"{primitive} is known as {_classes[primitive]}: leave it as it is")
    _classes[primitive] = kind
